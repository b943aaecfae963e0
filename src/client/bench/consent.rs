//! Asks the person at the terminal whether a load may write over a store's values.
//!
//! - I1: without a terminal there is nobody to ask, and nothing is written over.

use std::io::{BufRead, IsTerminal, Write};

use super::super::ClientError;
use super::super::answer::Answer;
use super::super::connection::NodeConnection;
use super::super::dialling::Dialling;

/// Asks whoever started the load, if the servers hold values.
pub(super) fn ask(list: &str, dialling: &Dialling) -> Result<(), ClientError> {
    let Some(found) = found(list, dialling) else { return Ok(()) };
    let (input, output) = (std::io::stdin(), std::io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        return Err(refused(&found)); // I1
    }
    let question = format!("{found}, and this load writes over it; go on? [y/N] ");
    let mut line = String::new();
    let asked = output.lock().write_all(question.as_bytes());
    let answered = asked.and_then(|()| input.lock().read_line(&mut line));
    match answered {
        Ok(_) if is_yes(&line) => Ok(()),
        Ok(_) | Err(_) => Err(ClientError::NoConsent("nothing was written".to_owned())),
    }
}

fn is_yes(line: &str) -> bool {
    ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

fn refused(found: &str) -> ClientError {
    ClientError::NoConsent(format!(
        "{found}, and this load writes over it: give -yes if that is what you want"
    ))
}

/// What the servers hold, in words; `None` if that is nothing.
fn found(list: &str, dialling: &Dialling) -> Option<String> {
    list.split(',').take(super::super::ADDRESS_COUNT_MAX).find_map(|address| {
        let size = NodeConnection::open(address, dialling)
            .and_then(|mut connection| connection.call(&[b"DBSIZE"]));
        match size {
            Ok(Answer::Integer(0)) => None,
            Ok(Answer::Integer(1)) => Some(format!("{address} holds a value")),
            Ok(Answer::Integer(count)) => Some(format!("{address} holds {count} values")),
            Ok(Answer::Error(words)) => Some(format!("{address} may hold values ({words})")),
            Ok(_) | Err(_) => Some(format!("{address} may hold values, it does not say")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_is_consent() {
        assert!(["y\n", "Yes\n", " yes "].into_iter().all(is_yes));
        assert!(!["\n", "", "n\n", "yy\n", "ok\n"].into_iter().any(is_yes));
    }

    #[test]
    fn a_server_that_does_not_say_may_hold_values() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(found(&address, &Dialling::default()).unwrap().contains("may hold values"));
        assert!(refused("x").to_string().contains("give -yes"));
    }
}
