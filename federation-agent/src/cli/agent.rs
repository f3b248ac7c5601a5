//! Asking the node's running agent at its socket.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::node::desk::SOCKET;

/// What the agent with this state folder answers.
///
/// # Errors
/// No agent answers there.
pub(super) async fn get(state_dir: &Path, path_and_query: &str) -> Result<(StatusCode, Bytes)> {
    let socket = state_dir.join(SOCKET);
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!(
            "reach the node's agent at {}: is it running, is this --state-dir its own, and are you root",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak with the agent")?;
    tokio::spawn(connection);
    let request = Request::get(path_and_query).header("host", "agent").body(Empty::<Bytes>::new());
    let response =
        sender.send_request(request.context("put the question")?).await.context("ask the agent")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("read the agent's answer")?.to_bytes();
    Ok((status, body))
}
