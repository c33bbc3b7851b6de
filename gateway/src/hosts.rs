//! By which names the gateway may be called.
//!
//! A web page can have its own name resolve to 127.0.0.1 and then talk to what listens there as to its
//! own server. The browser sends that name in `Host`, and the site that a script comes from in
//! `Origin`: the one must be ours, and the other too.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};

/// Names beside those of loopback.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It calls us by a name that is not ours, or by none.
    Host,
    /// A script of another site sends it.
    Origin,
}

impl Hosts {
    /// Loopback's names, and these.
    #[must_use]
    pub fn with(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Looks at what a request says of where it goes and comes from.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap, tls: bool) -> Result<(), Foreign> {
        let mut given = headers.get_all(header::HOST).iter();
        let host = match (given.next(), given.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Foreign::Host)?,
            (None, _) => uri.authority().ok_or(Foreign::Host)?.as_str(),
            (Some(_), Some(_)) => return Err(Foreign::Host),
        };
        // A request to a proxy names its target in the path, too.
        let in_path = uri.authority().map(axum::http::uri::Authority::as_str);
        if !self.is_ours(host) || !in_path.is_none_or(|authority| self.is_ours(authority)) {
            return Err(Foreign::Host);
        }
        let same_site = |origin: &axum::http::HeaderValue| {
            let origin = origin.to_str().ok()?;
            // A proxy may speak TLS before a door that does not.
            let plain = origin.strip_prefix("http://").filter(|_| !tls);
            let site = plain.or(origin.strip_prefix("https://"))?;
            Some(site.eq_ignore_ascii_case(host))
        };
        match headers.get_all(header::ORIGIN).iter().all(|origin| same_site(origin) == Some(true)) {
            true => Ok(()),
            false => Err(Foreign::Origin),
        }
    }

    /// Whether `NAME` or `NAME:PORT` is one of our names.
    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = name(host) else { return false };
        if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            return address.to_canonical().is_loopback() || self.0.contains(&name);
        }
        name == "localhost" || self.0.contains(&name)
    }
}

/// The name without the port, in small letters; an IPv6 address keeps its brackets.
fn name(host: &str) -> Option<String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (&host[..end], &host[end..])
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (fits && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, headers: &[(&'static str, &str)]) -> Result<(), Foreign> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Hosts::with(&["Stasis.Example".to_owned(), "10.0.0.7".to_owned()]).check(
            &uri.parse().unwrap(),
            &map,
            false,
        )
    }

    #[test]
    fn our_names_are_loopbacks_and_those_configured() {
        for host in [
            "localhost",
            "LOCALHOST:7437",
            "127.0.0.1",
            "127.0.0.1:7437",
            "127.1.2.3",
            "[::1]",
            "[::1]:7437",
            "[::ffff:127.0.0.1]",
            "stasis.example",
            "Stasis.example:443",
            "10.0.0.7:1",
        ] {
            assert_eq!(check("/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "0.0.0.0",
            "[::]",
            "[::1",
            "[::1]x",
            "localhost:",
            "localhost:x",
            "evil@localhost",
            "localhost:80@evil",
            "xlocalhost",
        ] {
            assert_eq!(check("/", &[("host", host)]), Err(Foreign::Host), "{host}");
        }
    }

    #[test]
    fn a_name_must_be_given_once_and_be_the_same_in_the_path() {
        assert_eq!(check("/", &[]), Err(Foreign::Host));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check("/", &twice), Err(Foreign::Host));
        assert_eq!(check("http://localhost/", &[]), Ok(()));
        assert_eq!(check("http://evil.example/", &[("host", "localhost")]), Err(Foreign::Host));
    }

    #[test]
    fn scripts_of_other_sites_are_refused() {
        let from = |origin| check("/", &[("host", "localhost:7437"), ("origin", origin)]);
        assert_eq!(from("http://localhost:7437"), Ok(()));
        for origin in
            ["null", "http://localhost:3000", "http://localhost", "https://evil.example", ""]
        {
            assert_eq!(from(origin), Err(Foreign::Origin), "{origin}");
        }
    }
}
