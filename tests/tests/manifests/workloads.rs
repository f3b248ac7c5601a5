//! Workloads: what their pods mount, read and start is there, and starts.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::judge::{Shelf, list, name_of, text};

/// Every cluster has these.
const PRIORITIES: [&str; 2] = ["system-cluster-critical", "system-node-critical"];

/// The image has one program, and starts it.
const PROGRAM: &str = "/federation-agent";

pub fn complaints(shelf: &Shelf<'_>, agent: &Path) -> Result<Vec<String>> {
    let mut judge = Judge { shelf, agent, found: Vec::new(), settings: BTreeMap::new() };
    let templates: Vec<_> =
        shelf.objects().iter().filter(|object| object["spec"]["template"].is_object()).collect();
    for workload in &templates {
        judge.workload(workload)?;
    }
    for object in shelf.objects() {
        judge.selector(object, &templates);
    }
    let Judge { mut found, settings, .. } = judge;
    let unread = settings.into_iter().filter(|(_, read)| !read);
    found.extend(unread.map(|((map, key), _)| format!("ConfigMap {map}: nobody reads {key}")));
    Ok(found)
}

struct Judge<'a> {
    shelf: &'a Shelf<'a>,
    agent: &'a Path,
    found: Vec<String>,
    /// For each `ConfigMap` and key that is given to programs as environment: whether one of them reads it.
    settings: BTreeMap<(String, String), bool>,
}

impl Judge<'_> {
    fn complain(&mut self, object: &Value, what: &str) {
        self.found.push(format!("{}: {what}", name_of(object)));
    }

    fn workload(&mut self, workload: &Value) -> Result<()> {
        let pod = &workload["spec"]["template"]["spec"];
        if let Some(account) = pod["serviceAccountName"].as_str() {
            self.refer(workload, "ServiceAccount", account, None);
        }
        if let Some(priority) = pod["priorityClassName"].as_str()
            && !PRIORITIES.contains(&priority)
            && self.shelf.find("PriorityClass", "", priority).is_none()
        {
            self.complain(workload, &format!("there is no PriorityClass {priority:?}"));
        }
        for volume in list(&pod["volumes"]) {
            for (source, name, kind) in
                [("configMap", "name", "ConfigMap"), ("secret", "secretName", "Secret")]
            {
                let source = &volume[source];
                if let Some(name) = source[name].as_str() {
                    let keys: Vec<_> = list(&source["items"]).iter().map(|item| text(&item["key"])).collect();
                    self.refer(workload, kind, name, None);
                    for key in keys {
                        self.refer(workload, kind, name, Some(key));
                    }
                }
            }
        }
        for containers in ["initContainers", "containers"] {
            for container in list(&pod[containers]) {
                self.container(workload, container)?;
            }
        }
        Ok(())
    }

    fn container(&mut self, workload: &Value, container: &Value) -> Result<()> {
        let expected = format!("{}:{}", federation_image::NAME, env!("CARGO_PKG_VERSION"));
        let image = text(&container["image"]);
        if image != expected {
            self.complain(workload, &format!("the image is {image:?}, not {expected:?}"));
        }
        for port in list(&container["ports"]) {
            if port["name"].is_null() {
                self.complain(workload, &format!("port {} has no name", port["containerPort"]));
            }
        }
        let mut command: Vec<&str> = list(&container["command"]).iter().map(text).collect();
        if command.is_empty() {
            command.push(PROGRAM);
        }
        command.extend(list(&container["args"]).iter().map(text));
        let help = self.help(workload, &command)?;
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let command: Vec<_> = list(&container[probe]["exec"]["command"]).iter().map(text).collect();
            if !command.is_empty() {
                self.help(workload, &command)?;
            }
        }
        self.environment(workload, container, &help);
        Ok(())
    }

    /// What the program says of a command; nothing, and a complaint, where it does not know it.
    fn help(&mut self, workload: &Value, command: &[&str]) -> Result<String> {
        let Some((&PROGRAM, arguments)) = command.split_first() else {
            self.complain(workload, &format!("{command:?} starts something else than {PROGRAM}"));
            return Ok(String::new());
        };
        let output =
            Command::new(self.agent).args(arguments).arg("--help").output().context("start the agent")?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let error = errors.lines().next().unwrap_or_default();
            self.complain(workload, &format!("{command:?} cannot be started: {error}"));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn environment(&mut self, workload: &Value, container: &Value, help: &str) {
        let is_read = |variable: &str| help.contains(&format!("[env: {variable}="));
        for variable in list(&container["env"]) {
            let name = text(&variable["name"]);
            if !is_read(name) {
                self.complain(workload, &format!("{} does not read {name}", text(&container["name"])));
            }
            for (source, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
                let source = &variable["valueFrom"][source];
                if source["optional"] != true
                    && let Some(name) = source["name"].as_str()
                {
                    self.refer(workload, kind, name, Some(text(&source["key"])));
                }
            }
        }
        for source in list(&container["envFrom"]) {
            if let Some(name) = source["secretRef"]["name"].as_str() {
                self.refer(workload, "Secret", name, None);
            }
            let Some(name) = source["configMapRef"]["name"].as_str() else { continue };
            self.refer(workload, "ConfigMap", name, None);
            let namespace = text(&workload["metadata"]["namespace"]);
            let map = self.shelf.find("ConfigMap", namespace, name);
            let keys = map.and_then(|map| map["data"].as_object()).into_iter().flatten();
            for (key, _) in keys {
                *self.settings.entry((name.to_owned(), key.clone())).or_default() |= is_read(key);
            }
        }
    }

    /// Something of the workload's own namespace, and what it must have.
    fn refer(&mut self, workload: &Value, kind: &str, name: &str, key: Option<&str>) {
        let namespace = text(&workload["metadata"]["namespace"]);
        match (self.shelf.find(kind, namespace, name), key) {
            (Some(object), Some(key)) if object["data"][key].is_null() => {
                self.complain(workload, &format!("{kind} {name:?} has no {key:?}"));
            }
            (None, _) if !self.shelf.is_told(kind, name) => {
                self.complain(
                    workload,
                    &format!("there is no {kind} {name:?}, and nobody is told to make it"),
                );
            }
            _ => {}
        }
    }

    /// Whether what an object selects are pods of ours.
    fn selector(&mut self, object: &Value, workloads: &[&Value]) {
        let spec = &object["spec"];
        let labels = match text(&object["kind"]) {
            "PodDisruptionBudget" | "Deployment" | "DaemonSet" => &spec["selector"]["matchLabels"],
            "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
            "Service" => &spec["selector"],
            _ => return,
        };
        let Some(labels) = labels.as_object() else { return };
        let selects = |workload: &&Value| {
            let theirs = &workload["spec"]["template"]["metadata"]["labels"];
            object["metadata"]["namespace"] == workload["metadata"]["namespace"]
                && labels.iter().all(|(name, value)| theirs[name] == *value)
        };
        if !workloads.iter().any(selects) {
            self.complain(object, "it selects no pod of any workload");
        }
    }
}
