//! The answer to a question about the node or the connection, before a protocol encodes it. Pure.
//!
//! Made by `ask` and by the commands that need no data; encoded by the client's dialect.

use bytes::Bytes;

use super::complaint::Complaint;

/// An answer that is no outcome of a command of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing.
    Null,
    /// No list: what there would be a list of is unknown, or was given up.
    NoArray,
    /// One of a few words, such as `OK`.
    Status(&'static str),
    /// A number.
    Integer(i64),
    /// Any bytes.
    Bytes(Bytes),
    /// Text for people.
    Text(String),
    /// Answers in order.
    Array(Vec<Value>),
    /// Answers whose order means nothing.
    Set(Vec<Value>),
    /// What is sent without being asked for, or is said in the same form.
    Push(Vec<Value>),
    /// Several answers to one request, one behind the other.
    Several(Vec<Value>),
    /// Names with their answers, in order.
    Map(Vec<(&'static str, Value)>),
    /// Why there is no answer.
    Complaint(Complaint),
}

impl Value {
    /// What most requests about the connection come to.
    pub(crate) const OK: Value = Value::Status("OK");

    /// A number that counts something; beyond a signed 64-bit integer it stays at the largest.
    pub(crate) fn count(number: u64) -> Value {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// The number of things that are in memory.
    pub(crate) fn size(count: usize) -> Value {
        Value::count(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// A string that is no text for people: a name, an address, an argument.
    pub(crate) fn word(word: &(impl AsRef<[u8]> + ?Sized)) -> Value {
        Value::Bytes(Bytes::copy_from_slice(word.as_ref()))
    }

    /// A string that was written down here.
    pub(crate) fn known(word: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(word.as_bytes()))
    }

    /// Bytes that it takes about, to bound what is kept of it.
    pub(crate) fn byte_count(&self) -> usize {
        const LEAST: usize = size_of::<Value>();
        LEAST
            + match self {
                Value::Null | Value::NoArray | Value::Status(_) | Value::Integer(_) => 0,
                Value::Bytes(bytes) => bytes.len(),
                Value::Text(text) => text.len(),
                Value::Array(values)
                | Value::Set(values)
                | Value::Push(values)
                | Value::Several(values) => values.iter().map(Value::byte_count).sum(),
                Value::Map(pairs) => {
                    pairs.iter().map(|(_, value)| size_of::<&str>() + value.byte_count()).sum()
                }
                Value::Complaint(complaint) => complaint.text.len(),
            }
    }
}

impl From<Result<Value, Complaint>> for Value {
    fn from(result: Result<Value, Complaint>) -> Value {
        result.unwrap_or_else(Value::Complaint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_as_much_memory_as_it_takes() {
        let number = size_of::<Value>();
        assert_eq!(Value::Integer(1).byte_count(), number);
        let list = Value::Array(vec![Value::Null; 1000]);
        assert_eq!(list.byte_count(), 1001 * number);
        let map = Value::Map(vec![("name", Value::word(b"bytes"))]);
        assert_eq!(map.byte_count(), number + size_of::<(&str, Value)>() + 5);
    }
}
