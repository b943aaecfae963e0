//! A host and a port, as flags give them.

use std::fmt;
use std::net::IpAddr;

/// Where something listens or is reached: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Host name, or IP address without brackets.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

impl Address {
    /// Reads `11000`, `:11000`, `host:11000` or `[::1]:11000`; without a host it is 127.0.0.1.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Address, &'static str> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port: u16 = port.parse().map_err(|_| "the port is no number from 1 to 65535")?;
        if port == 0 {
            return Err("port 0 names no port that others could find");
        }
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let host = rest.strip_suffix(']').ok_or("a bracket is missing")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address in brackets")?;
                host
            }
            None if host.contains(':') => return Err("an IPv6 address needs brackets"),
            None if host.is_empty() => "127.0.0.1",
            None => host,
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if host.len() > 253 || !host.bytes().all(allowed) {
            return Err("the host is no name and no IP address");
        }
        Ok(Address { host: host.to_owned(), port })
    }

    /// True if only this machine reaches it. A name other than `localhost` is not looked up.
    pub fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<IpAddr>();
        ip.map_or(self.host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
    }

    /// True if it stands for every address of this machine.
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// True if both cannot be listened on at once.
    pub fn overlaps(&self, other: &Address) -> bool {
        self.port == other.port
            && (self.host == other.host || self.is_wildcard() || other.is_wildcard())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}
