//! Refuses dangerous requests before any handler sees them: forms that a proxy in front may read
//! differently than we do, and writes that a page of another site makes a browser send. Pure.
//!
//! Called for every request.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::HEAD_BYTES_MAX;
use super::problem::{Problem, status_of};
use crate::command::FailureClass;
use crate::server::access::Access;

/// Ends the connection behind a response.
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request that came to the address `local` may go on to its handler. On a loopback address,
/// its host has to be an address or `localhost`: any other name may have been pointed here by a page
/// that the browser then takes for ours. Beyond loopback names are how nodes are called, so there a page
/// writes only where tokens say who it is for.
///
/// # Errors
/// It may not; the connection is to be closed, since what follows may not be a request.
pub(crate) fn check(
    request: &Request,
    local: IpAddr,
    access: Option<&Access>,
) -> Result<(), Problem> {
    check_form(request.version(), request.headers())?;
    check_length(request)?;
    let local = local.to_canonical(); // one socket for both families has addresses of the older as of the newer
    let host = one(request.headers(), &HOST)?.ok_or_else(|| Problem::wrong("no Host header"))?;
    if local.is_loopback() && !is_local_host(host) {
        let message = "this address is asked by its number, or as localhost";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", message));
    }
    let is_ours_alone = local.is_loopback() || access.is_some_and(Access::is_guarded);
    let pages = if is_ours_alone { Pages::OfThisHost } else { Pages::None };
    check_site(request.method(), request.headers(), host, pages)
}

/// Which pages may have a browser send writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    OfThisHost,
    None,
}

/// HTTP/1.1, and a body whose length is known: a body in chunks is where proxies and servers have
/// disagreed on where a request ends.
fn check_form(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    if version != Version::HTTP_11 {
        let message = "HTTP/1.1 is spoken here";
        let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
        return Err(Problem::new(status, "protocol_version", message));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        let message = "a body needs a Content-Length and no Transfer-Encoding";
        return Err(Problem::new(StatusCode::LENGTH_REQUIRED, "length_required", message));
    }
    one(headers, &CONTENT_LENGTH).map(drop)
}

/// Refuses a head that is longer than it may be. hyper looks at its bound between reads alone: what the
/// last of them brought may be well beyond it.
fn check_length(request: &Request) -> Result<(), Problem> {
    // The version, spaces and the ends of the lines are what a sender cannot stretch.
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let bytes = request.method().as_str().len() + target + headers.sum::<usize>();
    if bytes <= HEAD_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("the request line and headers are {bytes} bytes; {HEAD_BYTES_MAX} are taken");
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large", message))
}

/// Refuses a write that a page of another site has a browser make.
fn check_site(
    method: &Method,
    headers: &HeaderMap,
    host: &str,
    pages: Pages,
) -> Result<(), Problem> {
    let forbidden = |message| Problem::new(StatusCode::FORBIDDEN, "cross_site", message);
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let site = one(headers, &SEC_FETCH_SITE)?.unwrap_or("none");
    if !matches!(site, "none" | "same-origin") {
        return Err(forbidden("a page of another site may not write here"));
    }
    let Some(origin) = one(headers, &ORIGIN)? else { return Ok(()) };
    let is_ours = origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
    match pages {
        Pages::OfThisHost if is_ours => Ok(()),
        Pages::OfThisHost => Err(forbidden("a page of another origin may not write here")),
        Pages::None => Err(forbidden("a page may write here only if the node has -tokens")),
    }
}

/// What a request presents in `Authorization`; nothing where that is not there.
///
/// # Errors
/// It is there twice, or in another scheme than `Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = one(headers, &AUTHORIZATION)? else { return Ok(None) };
    // Source: RFC 6750, section 2.1, and RFC 9110, section 11.4: one space or more.
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = token.map(|(_, token)| token.trim_start_matches(' '));
    let is_one =
        |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let token = token.filter(is_one).ok_or_else(|| {
        let (status, code) = status_of(FailureClass::NoToken);
        Problem::new(status, code, "Authorization is Bearer and a token here")
    })?;
    Ok(Some(token))
}

/// Whether a host is an address or `localhost`, with or without a port.
fn is_local_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// The one value of a header, if it is there.
///
/// # Errors
/// It is there twice, or is no text.
pub(crate) fn one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::wrong(format!("{name} is there twice")));
    }
    let text = value.to_str().map_err(|_| Problem::wrong(format!("{name} is no plain text")))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::body::Body;

    use super::*;

    #[test]
    fn a_head_is_as_long_as_it_may_be_and_no_longer() {
        let status = |bytes: usize| {
            let head =
                Request::get("/v1").header("host", "localhost").header("a", "a".repeat(bytes));
            check(&head.body(Body::empty()).unwrap(), Ipv4Addr::LOCALHOST.into(), None)
                .map_err(|problem| problem.status.as_u16())
        };
        let rest = "GET/v1hostlocalhosta".len();
        assert_eq!(status(HEAD_BYTES_MAX - rest), Ok(()));
        assert_eq!(status(HEAD_BYTES_MAX - rest + 1), Err(431));
    }

    #[test]
    fn a_name_that_was_pointed_here_makes_no_page_ours() {
        let status = |local: Ipv4Addr, origin: Option<&str>| {
            let mut head = Request::delete("/v1/members/node1").header("host", "10.0.0.5:11000");
            if let Some(origin) = origin {
                head = head.header("origin", origin).header("sec-fetch-site", "same-origin");
            }
            check(&head.body(Body::empty()).unwrap(), local.into(), Some(&Access::free()))
                .map_err(|problem| problem.status.as_u16())
        };
        let beyond = Ipv4Addr::new(10, 0, 0, 5);
        assert_eq!(status(beyond, Some("http://10.0.0.5:11000")), Err(403));
        assert_eq!(status(beyond, None), Ok(()), "no browser sends this");
        assert_eq!(status(Ipv4Addr::LOCALHOST, Some("http://10.0.0.5:11000")), Ok(()));
    }
}
