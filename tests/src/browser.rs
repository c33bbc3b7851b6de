//! Who uses the page: logs in, and sends its forms as a browser does.

use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;

/// Somebody who has logged in.
#[derive(Debug)]
pub struct Visitor {
    client: Client,
    address: String,
    /// What the browser keeps for this site.
    cookie: String,
}

/// Where an answer leads to.
fn leads_to(answer: &Response) -> Result<String, String> {
    let place = answer.headers().get(LOCATION).and_then(|place| place.to_str().ok());
    place.map(str::to_owned).ok_or_else(|| format!("{}: it leads nowhere", answer.url()))
}

impl Visitor {
    /// Types the token into the page's log-in.
    ///
    /// # Errors
    /// Why one is not let in.
    pub fn log_in(address: &str, token: &str) -> Result<Self, String> {
        let client = Client::builder().timeout(Duration::from_secs(60)).redirect(Policy::none());
        let client = client.build().map_err(|error| error.to_string())?;
        let form = client.post(format!("{address}/login")).form(&[("token", token)]);
        let inside = form.header(ORIGIN, address).send().map_err(|error| error.to_string())?;
        let cookie = inside.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next());
        let cookie = cookie.ok_or_else(|| format!("the log-in: {}", inside.status()))?.to_owned();
        Ok(Self { client, address: address.to_owned(), cookie })
    }

    /// A page, as it is shown.
    ///
    /// # Errors
    /// Why it is not.
    pub fn page(&self, path: &str) -> Result<String, String> {
        let page = self.client.get(format!("{}{path}", self.address)).header(COOKIE, &self.cookie);
        let page = page.header(ACCEPT, "text/html").send().map_err(|error| error.to_string())?;
        let status = page.status();
        let text = page.text().map_err(|error| error.to_string())?;
        if status.is_success() { Ok(text) } else { Err(format!("{path}: {status}: {text}")) }
    }

    /// Presses a button; the page that comes then.
    ///
    /// # Errors
    /// Why none does.
    pub fn press(&self, form: &str, fields: &[(&str, &str)]) -> Result<String, String> {
        let sent = self.client.post(format!("{}{form}", self.address)).form(fields);
        let sent = sent.header(ORIGIN, &self.address).header(COOKIE, &self.cookie);
        let answer = sent.send().map_err(|error| error.to_string())?;
        match answer.status().is_redirection() {
            true => leads_to(&answer),
            false => Err(format!("{form}: {}", answer.text().unwrap_or_default())),
        }
    }
}
