//! Redis with replicas: the `SET`s that are sent at once are followed by one `WAIT 1`, and are done when
//! one replica has them in its memory (Redis does not tell when a replica has synced).

use diskstore::load::{Codec, CodecReply, CodecStep, Foreign, Operation, Resp};

/// How long Redis waits for a replica: ten seconds.
const WAIT: &[u8] = b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$5\r\n10000\r\n";

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct SetAndWait {
    resp: Resp,
    /// The present batch has writes.
    has_writes: bool,
    /// Writes whose `SET` was answered and whose `WAIT` was not.
    half_done: u64,
}

impl Codec for SetAndWait {
    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        self.has_writes |= matches!(operation, Operation::Write { .. });
        self.resp.request(operation, output);
    }

    fn end_batch(&mut self, output: &mut Vec<u8>) {
        if std::mem::take(&mut self.has_writes) {
            output.extend_from_slice(WAIT);
        }
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        let step = self.resp.next(input, output)?;
        let CodecStep::Reply(count, CodecReply::Done) = step else { return Ok(step) };
        if input.first() == Some(&b'+') {
            self.half_done += 1;
            return Ok(CodecStep::Passed(count));
        }
        // The reply to `WAIT` answers every write of the batch that was not refused.
        let Some(left) = self.half_done.checked_sub(1) else { return Ok(CodecStep::Passed(count)) };
        self.half_done = left;
        let is_held = !input.starts_with(b":0");
        let reply = if is_held { CodecReply::Done } else { CodecReply::Refused(b"NOREPLICA") };
        Ok(CodecStep::Reply(if left == 0 { count } else { 0 }, reply))
    }
}

#[cfg(test)]
mod tests {
    use diskstore::load::Values;

    use super::*;

    #[test]
    fn sets_sent_at_once_share_a_wait() {
        let (mut codec, mut output) = (SetAndWait::default(), Vec::new());
        let values = Values::new(1);
        for key in 0..2 {
            codec.request(&Operation::Write { key, value: values.value(key, 0, 1) }, &mut output);
        }
        codec.end_batch(&mut output);
        assert_eq!(output.windows(4).filter(|word| word == b"WAIT").count(), 1);
        assert!(output.ends_with(WAIT));
        codec.request(&Operation::Read { key: 1 }, &mut output);
        codec.end_batch(&mut output);
        assert!(output.ends_with(b"$1\r\n1\r\n"));
    }

    #[test]
    fn sets_are_done_when_their_wait_names_a_replica() {
        let refused = CodecReply::Refused(b"NOREPLICA");
        for (wait, reply) in
            [(b":1\r\n", CodecReply::Done), (b":2\r\n", CodecReply::Done), (b":0\r\n", refused)]
        {
            let (mut codec, mut output) = (SetAndWait::default(), Vec::new());
            assert_eq!(codec.next(b"+OK\r\n", &mut output), Ok(CodecStep::Passed(5)));
            let step = CodecStep::Reply(5, CodecReply::Refused(b"NO"));
            assert_eq!(codec.next(b"-NO\r\n", &mut output), Ok(step));
            assert_eq!(codec.next(b"+OK\r\n", &mut output), Ok(CodecStep::Passed(5)));
            assert_eq!(codec.next(wait, &mut output), Ok(CodecStep::Reply(0, reply)));
            assert_eq!(codec.next(wait, &mut output), Ok(CodecStep::Reply(4, reply)));
            assert_eq!(codec.next(wait, &mut output), Ok(CodecStep::Passed(4)));
        }
    }
}
