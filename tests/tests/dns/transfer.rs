//! Whole zones for those who keep a copy.

use anyhow::{Context as _, Result, ensure};

use crate::world::{DNS, PATIENCE, VIPS, World, create_cluster, create_service, in_world};

const NAME: &str = "my-service.my-namespace.my-federation";

/// Everything that a zone has, as dig tells it of a transfer.
fn transfer(world: &World, zone: &str) -> Result<Vec<String>> {
    let output = world
        .host
        .namespace()
        .execute("dig", &["@127.0.0.1", zone, "AXFR", "+onesoa", "+nostats", "+nocmd"])?;
    let lines = output.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

#[test]
fn a_peer_is_sent_whole_zones_and_nobody_else() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        let dns = world.start_dns_with("dns", &["--listen", DNS, "--dns-transfer", "127.0.0.0/8"])?;
        world.eventually_answers(NAME, "198.18.0.1").await?;

        let zone = transfer(world, "my-federation")?;
        for record in [
            "my-federation. 300 IN NS ns.my-federation.".to_owned(),
            "ns.my-federation. 300 IN A 127.0.0.1".to_owned(),
            format!("{NAME}. 300 IN A 198.18.0.1"),
            format!("{NAME}. 300 IN AAAA fd00:fed::1"),
            format!("_http._tcp.{NAME}. 300 IN SRV 0 100 80 {NAME}."),
        ] {
            assert!(zone.contains(&record), "{record} is not in {zone:#?}");
        }
        assert!(zone[0].starts_with("my-federation. 5 IN SOA "), "{}", zone[0]);
        for zone in
            ["example.com", "my-federation.svc.cluster.local", "clusterset.local", "18.198.in-addr.arpa"]
        {
            let records = transfer(world, zone)?;
            let of_service = |record: &&String| record.contains("my-service");
            assert!(records.iter().any(|record| of_service(&record)), "{zone}: {records:#?}");
        }

        dns.terminate().await?;
        world.start_dns_with("dns", &["--listen", DNS, "--dns-transfer", "192.0.2.0/24"])?;
        world.eventually_answers(NAME, "198.18.0.1").await?;
        assert!(transfer(world, "my-federation")?.is_empty());
        Ok(())
    })
}

#[test]
fn a_zone_of_many_messages_arrives_whole() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        for number in 0..60 {
            create_service(&client, &format!("service-{number}"), &VIPS).await?;
        }
        world.start_dns_with("dns", &["--listen", DNS, "--dns-transfer", "127.0.0.0/8"])?;
        world.eventually_answers("service-59.my-namespace.my-federation", "198.18.0.1").await?;
        let zone = transfer(world, "my-federation")?;
        // Two addresses and two ports each.
        assert_eq!(zone.iter().filter(|record| record.contains("service-")).count(), 60 * 4);
        Ok(())
    })
}

#[test]
fn a_secondary_follows_the_zone() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        world.start_dns_with("dns", &["--listen", DNS, "--dns-transfer", "127.0.0.1/32"])?;
        world.eventually_answers(NAME, "198.18.0.1").await?;

        let folder = world.lab.folder().join("nsd");
        std::fs::create_dir_all(&folder)?;
        let folder = folder.to_str().context("a path of ASCII")?;
        let configuration = format!(
            "server:\n ip-address: 127.0.0.1@5303\n username: \"\"\n zonesdir: {folder}\n pidfile: {folder}/pid\n\
             \u{20}xfrdfile: {folder}/xfrd\n xfrdir: {folder}\n zonelistfile: {folder}/zones\n database: \"\"\n\
             \u{20}server-count: 1\nremote-control:\n control-enable: no\nzone:\n name: my-federation\n\
             \u{20}request-xfr: 127.0.0.1@53 NOKEY\n max-refresh-time: 1\n min-refresh-time: 1\n"
        );
        world.start_with_file("nsd", &["-d", "-c"], &configuration)?;
        let at_secondary = ["-p", "5303", NAME];
        world.eventually_is(&at_secondary, "NOERROR", &[&format!("{NAME}. 300 IN A 198.18.0.1")]).await?;

        create_service(&client, "late", &VIPS).await?;
        let late = "late.my-namespace.my-federation";
        let copied = async || {
            let answer = world.dig(&["-p", "5303", late])?;
            ensure!(answer.answers == [format!("{late}. 300 IN A 198.18.0.1")], "{answer:?}");
            Ok(())
        };
        world.lab.wait_for("the secondary has the new service", PATIENCE, copied).await
    })
}
