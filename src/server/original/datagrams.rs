//! Sends answers by UDP, as the original's clients expect them.
//!
//! Called by the turn.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::OnceCell;

/// Most bytes that one datagram holds.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Sends answers by UDP, from one socket for each version of IP.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    v4: OnceCell<UdpSocket>,
    v6: OnceCell<UdpSocket>,
}

impl Datagrams {
    /// Sends one answer. What cannot be sent is lost, as datagrams may be: the client asks again.
    pub(crate) async fn send(&self, to: SocketAddr, answer: &[u8]) {
        let sent = match answer.len() {
            0..=DATAGRAM_BYTES_MAX => self.try_send(to, answer).await,
            _ => self.try_send(to, b"ERR the value is too long for a datagram\n").await,
        };
        if let Err(error) = sent {
            tracing::debug!(%to, %error, "an answer by UDP was not sent");
        }
    }

    async fn try_send(&self, to: SocketAddr, answer: &[u8]) -> io::Result<usize> {
        let (socket, any) = match to {
            SocketAddr::V4(_) => (&self.v4, SocketAddr::from(([0; 4], 0))),
            SocketAddr::V6(_) => (&self.v6, SocketAddr::from(([0_u16; 8], 0))),
        };
        socket.get_or_try_init(|| UdpSocket::bind(any)).await?.send_to(answer, to).await
    }
}
