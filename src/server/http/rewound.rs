//! A connection of which the session has already read some bytes, to recognise the protocol: hyper
//! reads these first. Counts the bytes in both directions.
//!
//! Called by hyper, for the session.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::counters::Counters;

/// The stream, behind what came before.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    before: Bytes,
    stream: S,
    counters: Arc<Counters>,
}

impl<S> Rewound<S> {
    /// Reads `before`, then `stream`.
    pub(super) fn new(before: Bytes, stream: S, counters: Arc<Counters>) -> Rewound<S> {
        counters.received(before.len());
        Rewound { before, stream, counters }
    }

    /// The stream alone.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let count = self.before.len().min(buffer.remaining());
            buffer.put_slice(self.before.get(..count).unwrap_or_default());
            self.before.advance(count);
            return Poll::Ready(Ok(()));
        }
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.counters.received(buffer.filled().len() - filled);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.counters.sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, parts))?;
        self.counters.sent(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_came_before_is_read_first_and_all_is_counted() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let counters = Arc::new(Counters::default());
        let mut rewound = Rewound::new(Bytes::from_static(b"abc"), ours, counters.clone());
        theirs.write_all(b"def").await.unwrap();
        let mut found = [0; 6];
        rewound.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"abcdef");
        rewound.write_all(b"four").await.unwrap();
        assert_eq!((counters.now().received_bytes, counters.now().sent_bytes), (6, 4));
    }
}
