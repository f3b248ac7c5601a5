//! Against the kernel, in network namespaces that end with the threads that made them.

use std::{path::PathBuf, pin::pin, process::Command, sync::mpsc, thread, time::Duration};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, gettid},
};
use tokio::time::timeout;

use super::*;

#[test]
fn interfaces_of_pods_are_told_as_they_come_and_go() {
    in_namespace(|pod| async move {
        ip(&format!("link add uplink type veth peer name eth0 netns {pod}"));
        ip(&format!("link add first type veth peer name eth1 netns {pod}"));
        ip("link add both-here type veth peer name its-peer");
        ip("link add bridge type bridge");
        let mut events = pin!(watch(index_of("uplink").await, None).unwrap());
        assert_eq!(next(&mut events).await, appeared("first").await);

        ip(&format!("link add second type veth peer name eth2 netns {pod}"));
        let second = appeared("second").await;
        assert_eq!(next(&mut events).await, second);

        // A port that leaves its bridge is told by a message that deletes a link.
        ip("link set second master bridge");
        ip("link set second nomaster");
        ip("link del second");
        assert_eq!(next(&mut events).await, InterfaceEvent::Gone { index: index(&second) });
    });
}

#[test]
fn a_veth_is_of_a_pod_once_its_peer_has_moved_there() {
    in_namespace(|pod| async move {
        let mut events = pin!(watch(0, None).unwrap());
        ip("link add moving type veth peer name eth0");
        ip("link set moving up");
        ip(&format!("link set eth0 netns {pod}"));
        assert_eq!(next(&mut events).await, appeared("moving").await);
    });
}

#[test]
fn a_pattern_says_which_interfaces_are_of_pods() {
    in_namespace(|_| async move {
        ip("link add cali0 type veth peer name cali1");
        ip("link add eth0 type veth peer name eth1");
        let mut events = pin!(watch(index_of("cali1").await, Some("cali*")).unwrap());
        let first = appeared("cali0").await;
        assert_eq!(next(&mut events).await, first);
        ip("link set cali0 name other");
        assert_eq!(next(&mut events).await, InterfaceEvent::Gone { index: index(&first) });
        ip("link set eth1 name cali7");
        assert_eq!(next(&mut events).await, appeared("cali7").await);
    });
}

#[test]
fn changes_that_the_kernel_could_not_tell_are_found() {
    in_namespace(|pod| async move {
        ip(&format!("link add lost type veth peer name eth0 netns {pod}"));
        ip("link add noise type veth peer name noise-peer");
        let mut events = pin!(watch(0, None).unwrap());
        let lost = appeared("lost").await;
        assert_eq!(next(&mut events).await, lost);

        // Nothing is read meanwhile: this thread is the whole runtime. The last messages find no room.
        let noise = "link set noise mtu 1400\nlink set noise mtu 1500\n".repeat(500);
        ip_batch(&format!("{noise}link del lost\n"));
        assert_eq!(next(&mut events).await, InterfaceEvent::Gone { index: index(&lost) });
    });
}

#[test]
fn a_pattern_is_matched_as_a_whole() {
    for (pattern, name, expected) in [
        ("eth0", "eth0", true),
        ("eth0", "eth01", false),
        ("eth0", "veth0", false),
        ("eth?", "eth1", true),
        ("eth?", "eth", false),
        ("*", "", true),
        ("veth*", "veth", true),
        ("veth*", "veth1234", true),
        ("veth*", "eth0", false),
        ("*.host", "a.b.host", true),
        ("a*b*c", "a1b2b3c", true),
        ("a*b*c", "a1c2b", false),
    ] {
        assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
    }
}

/// Runs a test on a thread in a new network namespace; it is given the path of a second one, where a pod could live.
fn in_namespace<T: Future<Output = ()>>(test: impl FnOnce(String) -> T + Send + 'static) {
    let node = thread::spawn(|| {
        let (path, pod_path) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        let pod = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs to be root");
            path.send(PathBuf::from(format!("/proc/{}/task/{}/ns/net", getpid(), gettid()))).unwrap();
            // Ends with the test, passed or not: the other end of the channel is dropped then.
            wait.recv().unwrap_err();
        });
        unshare(CloneFlags::CLONE_NEWNET).expect("needs to be root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(pod_path.recv().unwrap().display().to_string()));
        drop(done);
        pod.join().unwrap();
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` starts in the network namespace of the thread that calls it.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn ip_batch(commands: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, commands).unwrap();
    ip(&format!("-batch {}", file.path().display()));
}

async fn next(events: &mut (impl Stream<Item = Result<InterfaceEvent>> + Unpin)) -> InterfaceEvent {
    let event = timeout(Duration::from_secs(10), events.next()).await.expect("nothing is told");
    event.expect("the watch goes on").unwrap()
}

async fn appeared(name: &str) -> InterfaceEvent {
    InterfaceEvent::Appeared { index: index_of(name).await, name: name.to_owned() }
}

async fn index_of(name: &str) -> u32 {
    list().await.unwrap().iter().find(|link| link.name == name).expect("an interface").index
}

fn index(event: &InterfaceEvent) -> u32 {
    match event {
        InterfaceEvent::Appeared { index, .. } | InterfaceEvent::Gone { index } => *index,
    }
}
