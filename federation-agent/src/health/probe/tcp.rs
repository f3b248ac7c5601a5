//! Does a connection open?

use std::{io, net::SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Leaves by RST: thousands of probes a second would otherwise sit in TIME_WAIT for a minute each.
    socket.set_zero_linger()?;
    socket.connect(address).await
}
