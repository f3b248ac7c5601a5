//! Does GET answer with an expected code? Redirections are answers, and not followed.

use std::{net::SocketAddr, ops::RangeInclusive};

use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// # Errors
/// What the endpoint said instead, in words.
pub(super) async fn get(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
    codes: &[RangeInclusive<u16>],
) -> Result<(), String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", "federation-agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = async { sender.send_request(request).await.map_err(|error| error.to_string()) };
    tokio::pin!(connection);
    let response = tokio::select! {
        response = response => response?,
        // Only when it fails or ends before the answer has come.
        ended = &mut connection => {
            let reason = ended.map_or_else(|error| error.to_string(), |()| "the connection was closed".to_owned());
            return Err(reason);
        }
    };
    let code = response.status().as_u16();
    if codes.iter().any(|range| range.contains(&code)) { Ok(()) } else { Err(format!("status {code}")) }
}
