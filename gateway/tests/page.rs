//! The page and the events, without a browser: who is shown them, and what his clicks do.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod fakes;

use std::time::Duration;

use fakes::Rest;

#[tokio::test]
async fn the_page_is_shown_to_who_has_logged_in_and_does_what_he_means() {
    let rest = Rest::with_services().await;
    let policy = reqwest::redirect::Policy::none();
    let browser = reqwest::Client::builder().no_proxy().redirect(policy).build().unwrap();
    let url = |path: &str| format!("{}{path}", rest.url);
    let html =
        |request: reqwest::RequestBuilder| request.header("accept", "text/html,*/*;q=0.8").send();

    let away = html(browser.get(url("/checkpoints"))).await.unwrap();
    assert_eq!(
        (away.status().as_u16(), away.headers()["location"].to_str().unwrap()),
        (303, "/login")
    );
    for open in ["/login", "/assets/style.css", "/assets/page.js", "/assets/htmx.js"] {
        let answer = html(browser.get(url(open))).await.unwrap();
        assert_eq!(answer.status(), 200, "{open}");
        assert!(
            answer.headers()["content-security-policy"]
                .to_str()
                .unwrap()
                .contains("default-src 'none'")
        );
    }
    let log_in = |token: String| browser.post(url("/login")).form(&[("token", token)]).send();
    assert_eq!(log_in("0".repeat(64)).await.unwrap().status(), 401);
    assert_eq!(log_in(rest.metrics_token.clone()).await.unwrap().status(), 401);
    let inside = log_in(rest.token.clone()).await.unwrap();
    assert_eq!(inside.status(), 303);
    let cookie = inside.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();

    let page = |path: &str| html(browser.get(url(path)).header("cookie", &cookie));
    for path in [
        "/",
        "/containers",
        "/checkpoints",
        "/checkpoints/there",
        "/restores",
        "/tracks",
        "/jobs",
        "/policies",
        "/new?pid=7",
    ] {
        let answer = page(path).await.unwrap();
        let (status, policy) =
            (answer.status(), answer.headers().contains_key("content-security-policy"));
        let text = answer.text().await.unwrap();
        assert!(policy && text.contains("<h1>"), "{path}: {text}");
        assert!(status == 200 || ["/containers", "/tracks"].contains(&path), "{path}: {text}");
        // That of a problem says nothing of who asks.
        assert_eq!(text.contains("href=\"/policies\""), status == 200, "{path}: {text}");
    }
    let text = page("/").await.unwrap().text().await.unwrap();
    assert!(text.contains("&lt;script&gt;") && !text.contains("<script>"), "{text}");

    let view = r#"{"name": "view", "roles": ["view"], "labels": {"team": "web"}}"#;
    let (_, viewer) = rest.post("/v1/tokens", view).await;
    let inside = log_in(viewer["token"].as_str().unwrap().to_owned()).await.unwrap();
    let viewer = inside.headers()["set-cookie"].to_str().unwrap().to_owned();
    let viewer = viewer.split(';').next().unwrap();
    let text = html(browser.get(url("/jobs")).header("cookie", viewer)).await.unwrap();
    let text = text.text().await.unwrap();
    assert!(text.contains("href=\"/restores\"") && !text.contains("/policies"), "{text}");

    // What another site's page sends has no origin of ours, though the browser adds the cookie.
    let pid = std::process::id().to_string();
    let post = |origin: Option<String>| {
        let form = [("pid", pid.as_str()), ("after", "on"), ("directory", "clicked")];
        let request = browser.post(url("/do/checkpoint")).header("cookie", &cookie).form(&form);
        origin.into_iter().fold(request, |request, origin| request.header("origin", origin)).send()
    };
    assert_eq!(post(None).await.unwrap().status(), 401);
    assert_eq!(post(Some("https://evil.example".to_owned())).await.unwrap().status(), 403);
    assert_eq!(rest.get("/v1/jobs").await.1["jobs"].as_array().unwrap().len(), 0);
    let meant = post(Some(rest.url.clone())).await.unwrap();
    assert_eq!(meant.status(), 303);
    let job = meant.headers()["location"].to_str().unwrap().to_owned();
    assert!(page(&job).await.unwrap().text().await.unwrap().contains("at work"));
    rest.go.notify_one();
    rest.get(&format!("/v1{job}?wait=10s")).await;
    assert!(page(&job).await.unwrap().text().await.unwrap().contains("done"));

    let out = browser.post(url("/logout")).header("cookie", &cookie).header("origin", &rest.url);
    assert_eq!(out.send().await.unwrap().status(), 303);
    assert_eq!(page("/").await.unwrap().status(), 303);
}

#[tokio::test]
async fn what_becomes_of_jobs_is_told_as_it_happens() {
    let rest = Rest::with_services().await;
    let events = rest.http.get(format!("{}/v1/events", rest.url)).bearer_auth(&rest.token);
    let mut events = events.send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let (_, job) = rest.post("/v1/restores", r#"{"directory": "there"}"#).await;
    let mut text = String::new();
    while !text.contains(r#""state":"done""#) {
        let chunk = tokio::time::timeout(Duration::from_secs(10), events.chunk()).await;
        text += std::str::from_utf8(&chunk.unwrap().unwrap().unwrap()).unwrap();
    }
    assert!(text.contains("event: job") && text.contains(r#""state":"running""#), "{text}");
    assert!(text.contains(job["id"].as_str().unwrap()), "{text}");
}
