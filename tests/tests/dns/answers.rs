//! Names and what they are answered, over both transports.

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};

use crate::world::{DNS, NAME, VIPS, create_cluster, create_service, in_world};

#[test]
fn every_form_of_a_name_answers_over_udp_and_tcp() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        let short = NAME;

        for (name, record, expected) in [
            (short.to_owned(), "A", "198.18.0.1"),
            (format!("{short}.svc.cluster.local"), "A", "198.18.0.1"),
            (format!("{short}.svc.example.com"), "A", "198.18.0.2"),
            (format!("{short}.svc.europe-west1.example.com"), "A", "198.18.0.3"),
            (format!("{short}.svc.europe-west1-d.example.com"), "A", "198.18.0.4"),
            (format!("{short}.svc.europe-west1-d.europe-west1.example.com"), "A", "198.18.0.4"),
            ("my-service.my-namespace.svc.clusterset.local".to_owned(), "A", "198.18.0.1"),
            (short.to_owned(), "AAAA", "fd00:fed::1"),
            (format!("_http._tcp.{short}"), "SRV", "0 100 80 my-service.my-namespace.my-federation."),
            ("1.0.18.198.in-addr.arpa".to_owned(), "PTR", "my-service.my-namespace.my-federation."),
            ("my-federation".to_owned(), "NS", "ns.my-federation."),
            ("ns.my-federation".to_owned(), "A", "127.0.0.1"),
            ("dns-version.clusterset.local".to_owned(), "TXT", "\"1.0.0\""),
        ] {
            for transport in ["+notcp", "+tcp"] {
                let answer = world.dig(&[&name, record, transport])?;
                assert_eq!(answer.status, "NOERROR", "{answer:?}");
                assert_eq!(answer.answers, [format!("{name}. 300 IN {record} {expected}")]);
                assert!(answer.authoritative, "{answer:?}");
                assert!(!answer.recursive, "{answer:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_name_without_an_answer_is_told_from_one_that_is_not_there() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;

        for (name, record, status, soa_of) in [
            ("my-service.my-namespace.my-federation", "TXT", "NOERROR", Some("my-federation.")),
            (
                "my-service.my-namespace.my-federation.svc.example.com",
                "AAAA",
                "NOERROR",
                Some("example.com."),
            ),
            ("my-namespace.my-federation", "A", "NOERROR", Some("my-federation.")),
            ("svc.europe-west1.example.com", "A", "NOERROR", Some("example.com.")),
            ("other.my-namespace.my-federation", "A", "NXDOMAIN", Some("my-federation.")),
            ("my-service.other.my-federation.svc.cluster.local", "A", "NXDOMAIN", {
                Some("my-federation.svc.cluster.local.")
            }),
            (
                "my-service.my-namespace.my-federation.svc.mars.example.com",
                "A",
                "NXDOMAIN",
                Some("example.com."),
            ),
            ("kubernetes.default.svc.cluster.local", "A", "REFUSED", None),
            ("example.org", "A", "REFUSED", None),
            (".", "NS", "REFUSED", None),
        ] {
            for transport in ["+notcp", "+tcp"] {
                let answer = world.dig(&[name, record, transport])?;
                assert_eq!(answer.status, status, "{name} {record}: {answer:?}");
                assert!(answer.answers.is_empty(), "{answer:?}");
                // How long the absence may be remembered is the smaller one of the TTL and the last number.
                let soa =
                    soa_of.map(|zone| format!("{zone} 5 IN SOA ns.{zone} hostmaster.{zone} 1 30 10 86400 5"));
                assert_eq!(answer.authority, Vec::from_iter(soa), "{name} {record}");
            }
        }
        Ok(())
    })
}

#[test]
fn odd_questions_are_answered_by_the_book() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        let name = NAME;

        // Case does not matter, and comes back as it was sent.
        let mixed = "mY-sErViCe.My-NaMeSpAcE.mY-fEdErAtIoN";
        assert_eq!(world.dig(&[mixed])?.answers, [format!("{mixed}. 300 IN A 198.18.0.1")]);
        for (arguments, status) in [
            (&["-c", "CH", name, "TXT"][..], "REFUSED"),
            (&["+opcode=NOTIFY", name][..], "NOTIMP"),
            (&["+edns=1", "+noednsnegotiation", name][..], "BADVERS"),
            (&["+noedns", name][..], "NOERROR"),
            (&["+cookie", "+subnet=192.0.2.0/24", "+nsid", "+ednsopt=65001:00", name][..], "NOERROR"),
        ] {
            assert_eq!(world.dig(arguments)?.status, status, "{arguments:?}");
        }
        // RFC 8482.
        let any = format!("{name}. 300 IN HINFO \"RFC8482\" \"\"");
        assert_eq!(world.dig(&[name, "ANY", "+notcp"])?.answers, [any]);
        // What a client offers to take is not what the network can carry unfragmented.
        let large = world.dig(&["+bufsize=65535", name])?;
        assert_eq!(large.udp_payload.as_deref(), Some("1232"));
        Ok(())
    })
}

#[test]
fn answers_follow_the_federation() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        world.start_dns("dns", DNS)?;
        let name = "late.my-namespace.my-federation";
        world.eventually(name, "NXDOMAIN").await?;
        create_service(&client, "late", &VIPS).await?;
        world.eventually_answers(name, "198.18.0.1").await?;

        let services = Api::<Service>::namespaced(client.clone(), "my-namespace");
        services.delete("late", &DeleteParams::default()).await?;
        world.eventually(name, "NXDOMAIN").await
    })
}
