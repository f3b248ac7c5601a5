//! What has been acknowledged stays, and what cannot work is refused with a sentence.

use std::fs;
use std::net::TcpListener;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{JSON, SERVICES, Server, refused, send, service};

#[tokio::test]
async fn a_restart_keeps_objects_versions_and_credentials() {
    let server = Server::start();
    let client = server.client().await;
    let made = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let token = fs::read(server.path("data/admin.token")).expect("a token");
    let server = Server::start_in(server.terminate());
    let client = server.client().await;
    let read = send(&client, Method::GET, &format!("{SERVICES}/web"), JSON, &Value::Null).await.expect(200);
    assert_eq!(read, made);
    assert_eq!(fs::read(server.path("data/admin.token")).expect("a token"), token);
    let next = send(&client, Method::POST, SERVICES, JSON, &service("next")).await.expect(201);
    let version = |object: &Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
    };
    assert!(version(&next) > version(&made), "versions go on where they were");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let mut directory = TempDir::new().expect("a directory");
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let server = Server::start_in(directory);
        let client = server.client().await;
        for name in &acknowledged {
            let path = format!("{SERVICES}/{name}");
            assert_eq!(
                send(&client, Method::GET, &path, JSON, &Value::Null).await.code,
                200,
                "{name} is kept"
            );
        }
        let writers = (0..4).map(|writer| {
            let client = client.clone();
            async move {
                let mut made = Vec::new();
                for number in 0..5 {
                    let name = format!("s-{round}-{writer}-{number}");
                    send(&client, Method::POST, SERVICES, JSON, &service(&name)).await.expect(201);
                    made.push(name);
                }
                made
            }
        });
        acknowledged.extend(futures::future::join_all(writers).await.into_iter().flatten());
        directory = server.kill();
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let server = Server::start();
    let other = TempDir::new().expect("a directory");
    std::os::unix::fs::symlink(server.path("data"), other.path().join("data")).expect("a link");
    let (status, said) = refused(other.path(), "127.0.0.1:0");
    assert!(!status.success());
    assert!(
        said.contains("is in use by another process: stop it, or choose another with --data-dir"),
        "{said}"
    );
    assert!(!other.path().join("admin.conf").exists(), "nothing half-made is left");
    let client = server.client().await;
    send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let directory = TempDir::new().expect("a directory");
    let (status, said) = refused(directory.path(), &address);
    assert!(!status.success());
    assert!(said.contains(&format!("cannot listen on {address}; choose another with --listen")), "{said}");
    assert!(!directory.path().join("admin.conf").exists(), "nothing half-made is left");
}

#[tokio::test]
async fn a_damaged_store_is_refused_with_what_to_do() {
    let server = Server::start();
    let client = server.client().await;
    for number in 0..20 {
        let name = format!("web-{number}");
        send(&client, Method::POST, SERVICES, JSON, &service(&name)).await.expect(201);
    }
    let directory = server.terminate();
    let store = directory.path().join("data/store.redb");
    let whole = fs::read(&store).expect("the store");
    let expected = format!("cannot use the store {}: move it away to start empty", store.display());
    let mut flipped = whole.clone();
    // All of them, of an object that is older than the last two commits: pages that hold an older state are not read any
    // more, and damage to the last commit alone is taken for one that the power cut short, and undone.
    for at in (0..whole.len()).filter(|at| whole[*at..].starts_with(b"web-0")) {
        flipped[at] ^= 0xff;
    }
    assert_ne!(flipped, whole, "an object in the file");
    let damages = [
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("garbage", vec![0x5a; 4096]),
        ("a flipped byte", flipped),
    ];
    for (damage, bytes) in damages {
        fs::write(&store, bytes).expect("write");
        let (status, said) = refused(directory.path(), "127.0.0.1:0");
        assert!(!status.success() && said.contains(&expected), "{damage}: {said}");
        assert!(!said.contains("panicked"), "{damage}: {said}");
    }
    fs::write(&store, whole).expect("write");
    let server = Server::start_in(directory);
    let list = send(&server.client().await, Method::GET, SERVICES, JSON, &Value::Null).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(20));
    assert_eq!(list["kind"], json!("ServiceList"));
}
