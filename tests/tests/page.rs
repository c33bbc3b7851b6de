//! The page, in a browser: what people see and click.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use stasis_tests::{Machine, Scratch, Services, WebServer, wait_until};

/// A browser without a window, and what drives it.
struct Browser {
    client: Client,
    driver: Child,
    /// Where the driver is asked.
    address: String,
}

impl Browser {
    async fn start(scratch: &Scratch) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let port = address.expect("a port").port();
        let home = scratch.path(&format!("browser-{port}"));
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", &home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromedriver, of the package chromium-driver");
        let up = wait_until(Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(up, "chromedriver does not come up");
        let mut arguments = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,900",
        ];
        let profile = format!("--user-data-dir={}", home.display());
        arguments.push(&profile);
        let wanted = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let Value::Object(wanted) = wanted else { unreachable!("it is an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let driver_address = format!("http://127.0.0.1:{port}");
        let client = builder.capabilities(wanted).connect(&driver_address);
        Self { client: client.await.expect("a session"), driver, address: driver_address }
    }

    /// The first element, as soon as it is there.
    async fn find(&self, css: &str) -> Element {
        let wait = self.client.wait().at_most(Duration::from_secs(20));
        wait.for_element(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    async fn click(&self, css: &str) {
        // What is live may come anew between the two; a hand would press what is there.
        for attempt in 0.. {
            match self.find(css).await.click().await {
                Ok(()) => return,
                Err(error) if attempt < 5 && error.is_stale_element_reference() => {}
                Err(error) => panic!("click {css}: {error}"),
            }
        }
    }

    /// Waits for a text, which comes without the page being loaded again.
    async fn says(&self, css: &str, text: &str) {
        let path =
            format!("//*[contains(concat(' ', @class, ' '), ' {css} ')][contains(., '{text}')]");
        let wait = self.client.wait().at_most(Duration::from_secs(20));
        if let Err(error) = wait.for_element(Locator::XPath(&path)).await {
            panic!("{text}: {error}: {}", self.client.source().await.unwrap_or_default());
        }
    }

    /// Waits for the page of a job, and for what becomes of it.
    async fn job_says(&self, css: &str, text: &str) {
        self.find("#job").await;
        self.says(css, text).await;
    }

    /// What the page looks like, for people to look at; nothing of it is cut off at the side.
    async fn look(&self, name: &str) {
        let wide = "return document.documentElement.scrollWidth - window.innerWidth";
        let over = self.client.execute(wide, Vec::new()).await.expect("measure the page");
        assert!(over.as_i64().is_some_and(|over| over <= 0), "{name} is {over} pixels too wide");
        let picture = self.client.screenshot().await.expect("a picture");
        let target = std::env::var("CARGO_TARGET_DIR")
            .map_or_else(|_| PathBuf::from("../target"), PathBuf::from);
        std::fs::create_dir_all(target.join("page")).expect("mkdir");
        std::fs::write(target.join("page").join(format!("{name}.png")), picture).expect("write");
    }

    /// Whoever sits before it wants dark pages from now on.
    async fn dark(&self) {
        let session = self.client.session_id().await.expect("a session").expect("its name");
        let url = format!("{}/session/{session}/goog/cdp/execute", self.address);
        let features = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        let ask = || reqwest::blocking::Client::new().post(url).body(body.to_string()).send();
        let answer = std::thread::scope(|scope| scope.spawn(ask).join()).expect("ask");
        assert!(answer.is_ok_and(|answer| answer.status().is_success()), "it stays light");
    }

    async fn end(mut self) {
        self.client.clone().close().await.expect("end the browser");
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// Whether it counts; asked by a thread that may wait.
fn counts(web: &WebServer) -> bool {
    let ask = || {
        let before = web.count();
        wait_until(Duration::from_secs(5), || web.count() > before)
    };
    std::thread::scope(|scope| scope.spawn(ask).join()).expect("ask")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
#[ignore = "Chromium has to be installed: make test-all"]
fn a_checkpoint_is_made_looked_at_restored_and_removed_by_clicks() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let other = WebServer::start(&scratch.path("other"));
    let pid = web.program.pid();
    let address = services.address();
    let token = std::fs::read_to_string(services.token_file()).expect("the token");
    run(async {
        let browser = Browser::start(&scratch).await;
        let client = &browser.client;
        client.goto(&format!("{address}/jobs")).await.expect("go");
        assert!(client.current_url().await.expect("where").as_str().ends_with("/login"));
        browser.find("#token").await.send_keys("wrong").await.expect("type");
        browser.click("button").await;
        browser.says("bad", "not the gateway").await;
        browser.look("login").await;
        browser.find("#token").await.send_keys(token.trim()).await.expect("type");
        browser.click("button").await;

        browser.find("input[name=pid]").await.send_keys(&pid.to_string()).await.expect("type");
        browser.click("form.search button").await;
        browser.look("processes").await;
        browser.click("#processes form[action='/do/track'] button").await;
        browser.find("#tracks form[action='/do/track/end']").await;
        browser.look("tracks").await;
        client.goto(&format!("{address}/?pid={pid}")).await.expect("go");
        browser.click("#processes form[action='/do/track/end'] button").await;
        browser.find("#tracks p.dim").await;
        client.goto(&format!("{address}/?pid={pid}")).await.expect("go");
        browser.click("#processes button.first").await;
        browser.job_says("good", "done").await;
        browser.look("job").await;
        assert!(counts(&web), "it runs on");

        browser.click("nav a[href='/checkpoints']").await;
        browser.look("checkpoints").await;
        browser.click("#checkpoints td a").await;
        browser.look("checkpoint").await;
        // What is inside comes when the images are read.
        browser.find("#inside svg.map rect.map-code").await;
        browser.find("#inside svg.map rect.map-stored").await;
        browser.click("#inside details summary").await;
        browser.look("inside").await;
        browser.click("form[action='/do/verify'] button").await;
        browser.job_says("good", "done").await;

        // Another one in the same moment.
        client.goto(&format!("{address}/new?pid={pid}")).await.expect("go");
        let second = other.program.pid();
        browser.find("#with").await.send_keys(&second.to_string()).await.expect("type");
        browser.find("#directory").await.send_keys("of/both").await.expect("type");
        browser.click("input[value=on]").await;
        browser.click("button.first").await;
        browser.job_says("good", "done").await;
        browser.look("together").await;
        for pid in [pid, second] {
            assert!(services.checkpoints().join(format!("of/both/{pid}")).exists(), "of {pid}");
        }

        // A tree that is ended, and comes back.
        client.goto(&format!("{address}/new?pid={pid}")).await.expect("go");
        browser.find("#directory").await.send_keys("by/hand").await.expect("type");
        browser.find("#labels").await.send_keys("of=tests").await.expect("type");
        browser.click("input[value=end]").await;
        browser.look("new").await;
        browser.click("button.first").await;
        browser.job_says("good", "done").await;
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("reap");
        client.goto(&format!("{address}/checkpoints/by/hand")).await.expect("go");
        browser.click("#compare").await;
        browser.find("td.busy").await;
        browser.look("comparison").await;
        client.goto(&format!("{address}/checkpoints/by/hand")).await.expect("go");
        browser.click("form[action='/do/restore'] button").await;
        browser.job_says("good", "done").await;
        assert!(counts(&web), "it is back");
        browser.click("nav a[href='/restores']").await;
        browser.find("#restores span.good").await;
        browser.look("restores").await;
        client.goto(&format!("{address}/checkpoints/by/hand")).await.expect("go");
        browser.click("form[action='/do/restore'] button").await;
        browser.says("bad", "runs: it was restored as").await;
        browser.look("failed").await;
        client.goto(&format!("{address}/checkpoints/by/hand")).await.expect("go");
        browser.click("summary").await;
        browser.click("button.danger").await;
        browser.find("#checkpoints").await;
        assert!(!services.checkpoints().join("by/hand").exists());

        client.set_window_size(380, 800).await.expect("a narrow screen");
        for place in ["", "containers", "checkpoints", "restores", "tracks", "jobs", "policies"] {
            client.goto(&format!("{address}/{place}")).await.expect("go");
            browser
                .look(&format!("narrow-{}", if place.is_empty() { "processes" } else { place }))
                .await;
        }
        browser.dark().await;
        browser.look("dark").await;
        browser.click("form[action='/logout'] button").await;
        browser.find("#token").await;
        browser.end().await;
    });
    machine.end_tree(pid);
}
