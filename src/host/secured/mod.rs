//! A connection under TLS, over any stream. Its handshake is part of its first read, or of
//! [`Secured::poll_open`]: whoever bounds what comes first in time and number bounds the handshake.
//!
//! Called by `net`; calls tokio-rustls and `tls`. Invariants:
//!
//! - I1: nothing of the other side is handed on before its certificate was verified.
//! - I2: a write that is over has left for the system below: nothing of it waits here, for a writer
//!   that has nothing more to say never comes back. Until then the writer comes again with the same
//!   bytes.
//! - I3: a connection between members ends when it is too old (`Ages`), and every connection with the
//!   certificate that was shown on it. After the certificates of this process were replaced, nothing
//!   more is read before what was shown was verified by the new ones.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_rustls::server::Accept;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::net::Stream;
use crate::tls::{Bearer, Certificate, Mode, Side, Tls};

/// Bytes that are encrypted at once: others of the thread come in between.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// The first bytes of a connection that begins with a handshake: the kind of a record, and the version
/// that all of them are said to be of. A frame of members may begin with the first of the two.
const HANDSHAKE: [u8; 2] = [0x16, 3];
/// Bytes that are read before it is known what they are.
const FIRST_BYTES: usize = 512;

/// A stream with bytes that were read of it before.
#[derive(Debug)]
struct Ahead {
    bytes: BytesMut,
    stream: Stream,
}

impl Ahead {
    /// The first two bytes, which stay in front.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<io::Result<[u8; 2]>> {
        loop {
            if let Some(first) = self.bytes.first_chunk() {
                return Poll::Ready(Ok(*first));
            }
            let mut bytes = [0; FIRST_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.bytes.extend_from_slice(read.filled());
        }
    }
}

impl AsyncRead for Ahead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How far a connection has come.
enum Stage {
    /// It was accepted, and has said nothing that was looked at.
    Accepted(Ahead),
    /// Its handshake is under way.
    Shaking(Box<Accept<Ahead>>),
    /// TLS is spoken.
    Open(Box<TlsStream<Ahead>>),
    /// It is plain, and may be.
    Plain(Ahead),
    /// It is plain, and may not be: it is told so, in plain bytes.
    Refused(Ahead),
    /// The handshake came to nothing.
    Over,
}

/// What is known of a connection's other side; both halves of it have it.
pub struct Standing {
    tls: Arc<Tls>,
    side: Side,
    /// When it was made, and by which certificates of this process.
    made: Instant,
    generation: u64,
    /// By which of them its certificate was verified last.
    verified: AtomicU64,
    shown: OnceLock<Shown>,
    /// True if it may take as long as it takes.
    is_unlimited: AtomicBool,
}

/// What the other side showed.
#[derive(Debug)]
struct Shown {
    bearer: Option<Bearer>,
    chain: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bearer = self.bearer();
        formatter.debug_struct("Standing").field("bearer", &bearer).finish_non_exhaustive()
    }
}

impl Standing {
    fn new(tls: &Arc<Tls>, side: Side) -> Arc<Standing> {
        let generation = tls.generation();
        Arc::new(Standing {
            tls: tls.clone(),
            side,
            made: Instant::now(),
            generation,
            verified: AtomicU64::new(generation),
            shown: OnceLock::new(),
            is_unlimited: AtomicBool::new(false),
        })
    }

    /// Whom the certificate of the other side names, once it was verified.
    pub fn bearer(&self) -> Option<&Bearer> {
        self.shown.get()?.bearer.as_ref()
    }

    /// True if whoever dialled is to make the connection anew (I3).
    pub fn is_old(&self) -> bool {
        self.generation != self.tls.generation()
            || self.made.elapsed() >= self.tls.ages().renewed_after
    }

    /// Waits until whoever dialled is to make the connection anew.
    pub async fn grown_old(self: Arc<Self>) {
        tokio::select! {
            () = self.tls.replaced(self.generation) => {}
            () = sleep_until(self.made + self.tls.ages().renewed_after) => {}
        }
    }

    /// The connection may be older than others from now on.
    pub fn allow_long(&self) {
        self.is_unlimited.store(true, Ordering::Relaxed);
    }
}

/// A connection under TLS.
pub struct Secured {
    stage: Stage,
    standing: Arc<Standing>,
    from: Option<SocketAddr>,
    /// When it ends (I3).
    end: Option<Pin<Box<Sleep>>>,
    /// Bytes that TLS has taken of a write that is not over (I2).
    taken_bytes: usize,
}

impl fmt::Debug for Secured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secured").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Secured {
    /// A connection that was accepted, of which `came` was read already.
    pub(super) fn accepted(
        tls: &Arc<Tls>,
        side: Side,
        from: Option<SocketAddr>,
        stream: Stream,
        came: BytesMut,
    ) -> Secured {
        let stage = Stage::Accepted(Ahead { bytes: came, stream });
        Secured { stage, standing: Standing::new(tls, side), from, end: None, taken_bytes: 0 }
    }

    /// Shakes hands with a member that was dialled.
    ///
    /// # Errors
    /// Of the stream; `InvalidData` if the other side shows no certificate of a member, or speaks no
    /// TLS.
    pub(super) async fn dialled(tls: &Arc<Tls>, stream: Stream) -> io::Result<Secured> {
        let standing = Standing::new(tls, Side::DialledMember);
        let (config, name) = tls.current().member_dial();
        let ahead = Ahead { bytes: BytesMut::new(), stream };
        let shaken = TlsConnector::from(config).connect(name, ahead).await;
        let shaken = shaken.inspect_err(|_| tls.note_refused())?;
        let stage = Stage::Over;
        let mut secured = Secured { stage, standing, from: None, end: None, taken_bytes: 0 };
        secured.open(shaken.into())?;
        Ok(secured)
    }

    /// What is known of the other side.
    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Brings the handshake to its end, where there is to be one.
    pub(super) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.stage, Stage::Open(_) | Stage::Plain(_)) {
            return Poll::Ready(Ok(()));
        }
        let is_new = !matches!(self.stage, Stage::Refused(_) | Stage::Over);
        let opened = ready!(self.poll_shake(context));
        // Whoever leaves without a word, as probes do, is not refused.
        let has_begun = !matches!(self.stage, Stage::Accepted(_));
        if let Err(error) = &opened
            && is_new
        {
            if !matches!(self.stage, Stage::Refused(_)) {
                self.stage = Stage::Over;
            }
            if !has_begun {
                return Poll::Ready(opened);
            }
            self.standing.tls.note_refused();
            let from = self.from.map_or_else(String::new, |from| format!(" from {from}"));
            self.standing.tls.tell(|| format!("a connection{from} was refused: {error}"));
        }
        Poll::Ready(opened)
    }

    fn poll_shake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.stage {
                Stage::Accepted(ahead) => {
                    let first = ready!(ahead.poll_first(context))?;
                    let Stage::Accepted(ahead) = std::mem::replace(&mut self.stage, Stage::Over)
                    else {
                        unreachable!("it was just looked at");
                    };
                    self.stage = self.begin(first, ahead);
                }
                Stage::Shaking(accept) => {
                    let stream = ready!(Pin::new(accept.as_mut()).poll(context))?;
                    return Poll::Ready(self.open(stream.into()));
                }
                Stage::Open(_) | Stage::Plain(_) => return Poll::Ready(Ok(())),
                Stage::Refused(_) => return Poll::Ready(Err(not_tls())),
                Stage::Over => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        }
    }

    fn begin(&self, first: [u8; 2], ahead: Ahead) -> Stage {
        let Standing { tls, side, .. } = &*self.standing;
        match tls.current().port(*side) {
            Some(config) if first == HANDSHAKE => {
                Stage::Shaking(Box::new(TlsAcceptor::from(config).accept(ahead)))
            }
            _ if first != HANDSHAKE && tls.mode() == Mode::Prefer => Stage::Plain(ahead),
            _ => Stage::Refused(ahead),
        }
    }

    /// Notes who is at the other end of a connection whose handshake is done (I1, I3).
    fn open(&mut self, stream: TlsStream<Ahead>) -> io::Result<()> {
        let chain: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::into_owned).collect();
        let shown = chain.first().map(Certificate::read).transpose();
        let shown = shown.map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        let left = shown.as_ref().map(|shown| {
            let now = UnixTime::now().as_secs();
            Duration::from_secs(u64::try_from(shown.not_after).unwrap_or(0).saturating_sub(now))
        });
        let ends_after = match self.standing.side {
            Side::Client => left,
            Side::DiallingMember | Side::DialledMember => {
                let age_max = self.standing.tls.ages().cut_after;
                Some(left.map_or(age_max, |left| left.min(age_max)))
            }
        };
        self.end = ends_after.map(|after| Box::pin(sleep(after)));
        let bearer = shown.map(|shown| shown.bearer);
        drop(self.standing.shown.set(Shown { bearer, chain })); // it is called once
        self.stage = Stage::Open(Box::new(stream));
        Ok(())
    }

    /// Whether the connection may go on (I3).
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Standing { tls, side, verified, shown, is_unlimited, .. } = &*self.standing;
        let generation = tls.generation();
        if verified.load(Ordering::Relaxed) != generation {
            let chain = shown.get().map_or(&[][..], |shown| &shown.chain);
            tls.current().check(*side, chain).map_err(|reason| {
                io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("certificates were replaced, and by the new ones: {reason}"),
                )
            })?;
            verified.store(generation, Ordering::Relaxed);
        }
        let is_over = !is_unlimited.load(Ordering::Relaxed)
            && self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready());
        if is_over {
            let words = "its certificate ends, or it is as old as a connection may be";
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        Ok(())
    }
}

/// The error of plain bytes where TLS is due.
fn not_tls() -> io::Error {
    let words = "TLS is spoken here, and this connection is plain (-tls)";
    io::Error::new(io::ErrorKind::PermissionDenied, words)
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let secured = self.get_mut();
        ready!(secured.poll_open(context))?;
        secured.check(context)?;
        match &mut secured.stage {
            Stage::Open(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Stage::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            _ => unreachable!("it was just opened"),
        }
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let secured = self.get_mut();
        if let Stage::Refused(stream) = &mut secured.stage {
            return Pin::new(stream).poll_write(context, bytes);
        }
        ready!(secured.poll_open(context))?;
        let stream = match &mut secured.stage {
            Stage::Open(stream) => stream.as_mut(),
            Stage::Plain(stream) => return Pin::new(stream).poll_write(context, bytes),
            _ => unreachable!("it was just opened"),
        };
        let mut stream = Pin::new(stream);
        if secured.taken_bytes == 0 {
            let piece = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
            secured.taken_bytes = ready!(stream.as_mut().poll_write(context, piece))?;
        }
        ready!(stream.poll_flush(context))?; // I2
        let taken_bytes = std::mem::take(&mut secured.taken_bytes);
        assert!(taken_bytes <= bytes.len(), "a write was not brought to its end");
        Poll::Ready(Ok(taken_bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stage {
            Stage::Open(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Stage::Plain(stream) | Stage::Refused(stream) => Pin::new(stream).poll_flush(context),
            Stage::Accepted(_) | Stage::Shaking(_) | Stage::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stage {
            Stage::Open(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Stage::Plain(stream) | Stage::Refused(stream) | Stage::Accepted(stream) => {
                Pin::new(stream).poll_shutdown(context)
            }
            Stage::Shaking(_) | Stage::Over => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests;
