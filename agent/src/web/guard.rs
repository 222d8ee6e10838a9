//! Who may ask. Any local user can reach loopback, and so can any page in a browser on this machine,
//! through a name of its own that resolves to 127.0.0.1 (DNS rebinding): so Host and Origin must be
//! names that are known to be ours. On a shared host a token keeps other users out.

use std::{hint::black_box, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{
    App,
    connection::Caller,
    error::ApiError,
    parameters::{TOKEN, pairs},
};
use crate::peers::table::Standing;

/// Names that always mean this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Checks a request, answers it, notes that it was answered and how browsers must treat it.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let route = route(request.uri().path());
    let mut response = match check(&app, &caller, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            // Who may not ask need not stay.
            caller.place.stands(Standing::Refused);
            let mut response = error.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    app.count(route, response.status().as_u16());
    let headers = response.headers_mut();
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        // The address may hold the token.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What requests are counted by: a closed list, whatever paths are tried.
fn route(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/api/spans" => "/api/spans",
        "/api/health" => "/api/health",
        "/metrics" => "/metrics",
        path if path.starts_with("/api/span/") => "/api/span",
        _ => "other",
    }
}

fn check(app: &App, caller: &Caller, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let host = host.map(|host| host.to_str().unwrap_or("?")).unwrap_or_default();
    // A request may name its host in the first line as well.
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let hosts = &app.settings.hosts;
    if second.is_some() || !is_ours(host, hosts) || !is_ours(authority, hosts) {
        return Err(ApiError::forbidden_host(host));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("?");
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !name.is_some_and(|name| is_ours(name, hosts)) {
            return Err(ApiError::forbidden_origin(origin));
        }
    }
    match &app.settings.token {
        // The socket's directory has let them in.
        Some(_) if caller.by_socket => {}
        Some(token) if !shows(token, uri, headers)? => return Err(ApiError::no_token()),
        Some(_) => caller.place.stands(Standing::Proven),
        None => {}
    }
    Ok(())
}

/// Whether `host` is one of ours, at any port.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        // What follows the last colon of a bare IPv6 address is no port.
        _ => host,
    };
    let ours = LOOPBACK.into_iter().chain(hosts.iter().map(String::as_str));
    ours.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a request shows the token.
fn shows(token: &str, uri: &Uri, headers: &HeaderMap) -> Result<bool, ApiError> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    if let Some((scheme, given)) = bearer
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Ok(is_same(given.trim().as_bytes(), token.as_bytes()));
    }
    let pairs = pairs(uri)?;
    let given = pairs.iter().find(|(name, _)| name == TOKEN);
    Ok(given.is_some_and(|(_, given)| is_same(given.as_bytes(), token.as_bytes())))
}

/// Compares without stopping at the first difference: the time taken tells at most the length.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (x, y)| black_box(difference | (x ^ y)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_whole_or_not_at_all() {
        let hosts = vec!["probe.example".to_owned()];
        for host in ["localhost", "LOCALHOST:7690", "127.0.0.1:1", "[::1]", "[::1]:80"] {
            assert!(is_ours(host, &hosts), "{host}");
        }
        assert!(is_ours("probe.example:443", &hosts));
        for host in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "localhost:80:80",
            "localhost:80@evil.example",
            "127.0.0.1.evil.example",
            "[::1",
            "localhost/x",
        ] {
            assert!(!is_ours(host, &hosts), "{host}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd"));
        assert!(!is_same(b"ab", b"abc"));
        assert!(!is_same(b"", b"abc"));
    }
}
