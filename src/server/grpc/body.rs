//! The bodies of a call: what comes is bounded before memory is taken for it (I2 of `mod.rs`), what goes is
//! counted until it is written (I3 of `mod.rs`).
//!
//! Called by hyper and tonic. A body is messages one after the other, each behind five bytes: whether it is
//! compressed, and its length.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::status::{late, too_large};
use crate::command::Failure;
use crate::server::http::{BODY_BYTES_MAX_ALL, BODY_TIME_MAX};
use crate::server::socket::Patience;
use crate::server::wire::{Reserved, Unsent};

/// Bytes before a message.
const HEAD_BYTES: usize = 5;

/// Bytes that are counted together: a slow client is seen to take something each time when it has taken so
/// many.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Room for a message, until its call is answered.
pub(crate) type Held = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// What comes of a client.
#[derive(Debug)]
pub(crate) struct RequestBody<B = hyper::body::Incoming> {
    incoming: B,
    frames: Messages,
    patience: Patience,
}

/// Where a body stands between its messages.
#[derive(Debug)]
struct Messages {
    bytes_max: usize,
    head: Vec<u8>,
    /// Bytes that are left of the message.
    rest: usize,
    bodies: Arc<Semaphore>,
    held: Held,
}

impl<B> RequestBody<B> {
    /// A body of messages of at most `bytes_max` bytes, which are counted as parts of `bodies` until what
    /// is returned beside it is dropped.
    pub(crate) fn new(
        incoming: B,
        bytes_max: usize,
        bodies: Arc<Semaphore>,
    ) -> (RequestBody<B>, Held) {
        let held = Held::default();
        let frames = Messages {
            bytes_max,
            head: Vec::with_capacity(HEAD_BYTES),
            rest: 0,
            bodies,
            held: Arc::clone(&held),
        };
        (RequestBody { incoming, frames, patience: Patience::default() }, held)
    }
}

impl Messages {
    /// Looks at bytes that came, and takes room for each message that begins in them.
    ///
    /// # Errors
    /// A message is longer than it may be, or others take all the room.
    fn look(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let count = self.rest.min(bytes.len());
                self.rest -= count;
                bytes.advance(count);
                continue;
            }
            self.head.push(bytes.get_u8());
            if self.head.len() == HEAD_BYTES {
                let length = self.head.get(1..).unwrap_or_default().get_u32();
                self.head.clear();
                self.rest = usize::try_from(length).unwrap_or(usize::MAX);
                self.take_room()?;
            }
        }
        Ok(())
    }

    fn take_room(&mut self) -> Result<(), Status> {
        let (bytes, bytes_max) = (self.rest, self.bytes_max);
        let count = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
        let Some(count) = count else {
            let message = format!("the message is {bytes} bytes; {bytes_max} are taken here");
            return Err(too_large(message));
        };
        *self.held.lock() = None; // a message before this one was taken
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(count).map_err(|_| {
            let bytes = BODY_BYTES_MAX_ALL;
            let reason = format!("requests of others take all of {bytes} bytes");
            Status::from(Failure::Busy { reason })
        })?;
        *self.held.lock() = Some(room);
        Ok(())
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let RequestBody { incoming, frames, patience } = &mut *self;
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) else {
            ready!(patience.poll(BODY_TIME_MAX, context));
            return Poll::Ready(Some(Err(late("the request did not come in time"))));
        };
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            frames.look(frame.data_ref().map_or(&[], Bytes::as_ref))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// What goes to a client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: tonic::body::Body,
    /// What is left of a frame, in order.
    pieces: VecDeque<Bytes>,
    unsent: Arc<Unsent>,
    #[expect(dead_code, reason = "it ends with the body")]
    room: Option<Arc<Reserved>>,
}

impl ResponseBody {
    /// The same, counted; `room` was taken for it before it was known.
    pub(crate) fn new(
        body: tonic::body::Body,
        unsent: Arc<Unsent>,
        room: Option<Arc<Reserved>>,
    ) -> ResponseBody {
        ResponseBody { body, pieces: VecDeque::new(), unsent, room }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(PIECE_BYTES_MAX));
                let piece = self.unsent.counted(piece);
                self.pieces.push_back(piece);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.pieces.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::server::socket::{Backlog, Share};

    fn messages(bytes_max: usize, room: usize) -> Messages {
        let bodies = Arc::new(Semaphore::new(room));
        RequestBody::new((), bytes_max, bodies).0.frames
    }

    #[tokio::test]
    async fn what_goes_is_counted_in_pieces_that_a_slow_client_takes_one_by_one() {
        let backlog = Arc::new(Backlog::new(Duration::from_hours(1)));
        let unsent = Arc::new(Unsent::new(Share::new(backlog)));
        let message = Bytes::from(vec![7; 3 * PIECE_BYTES_MAX + 1]);
        let body = tonic::body::Body::new(axum::body::Body::from(message.clone()));
        let mut body = ResponseBody::new(body, Arc::clone(&unsent), None);
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            waiting.push(unsent.bytes());
            taken.extend_from_slice(frame.unwrap().data_ref().unwrap());
            assert_eq!(body.is_end_stream(), taken.len() == message.len());
        }
        let left = [3, 2, 1, 0].map(|count| count * PIECE_BYTES_MAX + 1);
        assert_eq!(
            (waiting, taken == message),
            ([message.len(), left[1], left[2], left[3]].into(), true)
        );
        assert_eq!(unsent.bytes(), 0);
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x02xy";
        for step in 1..body.len() {
            let mut messages = messages(3, 3);
            for part in body.chunks(step) {
                messages.look(part).unwrap();
                assert!(messages.rest <= 3 && messages.head.len() < HEAD_BYTES);
            }
            assert_eq!((messages.rest, messages.head.len()), (0, 0), "in steps of {step}");
        }
    }

    #[test]
    fn a_message_is_refused_by_its_length_alone() {
        for (head, code) in [
            (b"\0\0\0\0\x04", Code::ResourceExhausted),
            (b"\0\xff\xff\xff\xff", Code::ResourceExhausted),
        ] {
            assert_eq!(messages(3, 99).look(head).unwrap_err().code(), code);
        }
        assert!(messages(4, 99).look(b"\0\0\0\0\x04").is_ok());
    }

    #[test]
    fn room_is_taken_for_a_whole_message_and_given_back_with_its_call() {
        let mut first = messages(9, 10);
        first.look(b"\0\0\0\0\x09").unwrap();
        let bodies = Arc::clone(&first.bodies);
        let (mut second, held) = RequestBody::new((), 9, Arc::clone(&bodies));
        let refused = second.frames.look(b"\0\0\0\0\x02").unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "others take all");
        drop(first);
        second.frames.rest = 0;
        second.frames.look(b"\0\0\0\0\x09").unwrap();
        assert_eq!(bodies.available_permits(), 1);
        drop(second);
        assert_eq!(bodies.available_permits(), 1, "the call is not answered yet");
        drop(held);
        assert_eq!(bodies.available_permits(), 10);
    }
}
