//! Does `grpc.health.v1.Health/Check` say `SERVING`?
//!
//! Sources: the gRPC health checking protocol (`grpc/health/v1/health.proto`) and gRPC over HTTP/2. The one field that
//! each message has is written and read here; for that no generated code is worth its weight.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Version};
use tokio::net::TcpStream;

/// Of `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// An answer is some bytes; more is none.
const MOST: usize = 4096;

/// # Errors
/// What the endpoint said instead, in words.
pub(super) async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), String> {
    let handshake = h2::client::handshake(stream).await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    let exchange = exchange(sender, address, service);
    tokio::select! {
        status = exchange => match status? {
            SERVING => Ok(()),
            other => {
                let name = usize::try_from(other).ok().and_then(|n| STATUSES.get(n)).unwrap_or(&"an unknown status");
                Err((*name).to_owned())
            }
        },
        ended = connection => {
            Err(ended.map_or_else(|error| error.to_string(), |()| "the connection was closed".to_owned()))
        }
    }
}

async fn exchange(
    sender: h2::client::SendRequest<Bytes>,
    address: SocketAddr,
    service: &str,
) -> Result<u64, String> {
    let told = |error: h2::Error| error.to_string();
    let mut sender = sender.ready().await.map_err(told)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "federation-agent")
        .body(())
        .map_err(|error| error.to_string())?;
    let (response, mut body) = sender.send_request(request, false).map_err(told)?;
    body.send_data(message(service), true).map_err(told)?;
    let response = response.await.map_err(told)?;
    if !response.status().is_success() {
        return Err(format!("HTTP status {}", response.status().as_u16()));
    }
    // Where there is nothing else to say, the status comes with the headers.
    grpc_status(response.headers())?;
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(told)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        if bytes.len() + chunk.len() > MOST {
            return Err("an answer that is too long".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    if let Some(trailers) = body.trailers().await.map_err(told)? {
        grpc_status(&trailers)?;
    }
    serving_status(&bytes).ok_or_else(|| "an answer that is no HealthCheckResponse".to_owned())
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(status) => {
            let message =
                headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
            Err(format!("gRPC status {} {message}", String::from_utf8_lossy(status)).trim_end().to_owned())
        }
    }
}

/// A `HealthCheckRequest` in its frame: field 1 is the service's name.
fn message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        put_varint(&mut field, service.len() as u64);
        field.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    frame.put_slice(&field);
    frame.freeze()
}

/// The status in a framed `HealthCheckResponse`: field 1, a varint; 0 where it is left out.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let message = message.get(..length)?;
    match message {
        [] => Some(0),
        [0x08, value @ ..] => varint(value),
        _ => None,
    }
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8((value & 0x7f) as u8);
}

fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (shift, byte) in (0..64).step_by(7).zip(bytes) {
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every check with a status, as a gRPC server does.
    async fn server(status: u8, trailer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let mut body = request.into_body();
                let asked = body.data().await.unwrap().unwrap();
                assert_eq!(&asked[..], [0, 0, 0, 0, 6, 0x0a, 4, b'c', b'a', b'r', b't']);
                let response = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut stream = respond.send_response(response.unwrap(), false).unwrap();
                stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", trailer.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn only_serving_is_well() {
        for (status, trailer, expected) in [
            (1, "0", Ok(())),
            (2, "0", Err("NOT_SERVING".to_owned())),
            (0, "0", Err("UNKNOWN".to_owned())),
            (1, "5", Err("gRPC status 5".to_owned())),
        ] {
            let address = server(status, trailer).await;
            let stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(check(stream, address, "cart").await, expected, "{status} {trailer}");
        }
    }

    #[test]
    fn messages_that_are_none_say_nothing() {
        for (frame, status) in [
            (&[0, 0, 0, 0, 0][..], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 3, 8, 0x81, 1], Some(129)),
            (&[0, 0, 0, 0, 2, 8], None),
            (&[0, 0, 0, 0, 2, 9, 1], None),
            (&[0, 0], None),
        ] {
            assert_eq!(serving_status(frame), status, "{frame:?}");
        }
    }
}
