//! A headless Chromium, driven over the DevTools protocol: JSON through two pipes. A zero byte ends each message.
//!
//! The crates `headless_chrome` and `chromiumoxide` need a WebSocket and its port. Pipes need neither, and a few commands
//! suffice here.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use pg_workflow_tests::{PATIENCE, wait_until};
use serde_json::{Value, json};
use xtask::stack::scratch::Scratch;

/// The browser reads commands from file descriptor 3 and answers on 4. It exits when they are closed, so it never
/// outlives the test.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

const ARGUMENTS: [&str; 7] = [
    "--headless=new",
    "--remote-debugging-pipe",
    // The sandbox does not work for root, and the browser opens only our own page.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
];

pub struct Browser {
    chromium: Child,
    /// `None` once the browser must exit.
    commands: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: Value,
    calls: u64,
    complaints: Vec<String>,
    _profile: Scratch,
}

impl Browser {
    /// Returns `None`, with a message, if Chromium is not installed.
    pub fn start() -> Option<Browser> {
        let Some(program) = xtask::setup::browser() else {
            eprintln!("skipped: no chromium");
            return None;
        };
        let profile = Scratch::new("chromium").expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", START]).arg(program).args(ARGUMENTS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut chromium = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh runs");
        let commands = chromium.stdin.take();
        let answers = messages(chromium.stdout.take().expect("a pipe"));
        let (session, complaints) = (Value::Null, Vec::new());
        let mut browser = Browser { chromium, commands, answers, session, calls: 0, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attach = json!({"targetId": target, "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].take();
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.as_mut().expect("it runs").write_all(&bytes).expect("Chromium listens");
        loop {
            let mut answer = self.answers.recv_timeout(PATIENCE).expect("an answer of Chromium");
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    /// Records exceptions in the page and violations of the Content-Security-Policy. The page itself handles failed
    /// requests.
    fn note(&mut self, event: &Value) {
        let (method, params) = (event["method"].as_str().unwrap_or_default(), &event["params"]);
        let is_bad = match method {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => params["type"] == "error",
            "Log.entryAdded" => params["entry"]["source"] == "security" || params["entry"]["source"] == "violation",
            _ => false,
        };
        if is_bad {
            self.complaints.push(params.to_string());
        }
    }

    pub fn complaints(&mut self) -> &[String] {
        // The call reads and records all earlier messages.
        self.evaluate("0");
        &self.complaints
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Evaluates an expression in the page, and awaits it if it is a promise.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true in the page.
    pub fn wait(&mut self, expression: &str) {
        wait_until(expression, || self.evaluate(&format!("Boolean({expression})")) == true);
    }

    /// Presses and releases a key.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            "End" => (35, ""),
            _ => (0, key),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Returns the names, as a screen reader reads them, of all links within the selected element.
    pub fn link_names(&mut self, selector: &str) -> Vec<String> {
        let found =
            self.call("Runtime.evaluate", json!({"expression": format!("document.querySelector({selector:?})")}));
        let query = json!({"objectId": found["result"]["objectId"], "role": "link"});
        let tree = self.call("Accessibility.queryAXTree", query);
        let nodes = tree["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Saves a screenshot for people.
    pub fn screenshot(&mut self, name: &str) {
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}))["data"].take();
        let bytes = base64(data.as_str().expect("a picture"));
        let folder = xtask::workspace::target_dir().expect("target/").join("page");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(Path::new(name).with_extension("png")), bytes).expect("it can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.chromium.wait();
    }
}

/// Reads in a thread, so that waiting for a browser that hangs times out.
fn messages(pipe: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(0, &mut bytes).is_ok_and(|count| count > 0) {
            bytes.pop();
            let message = serde_json::from_slice(&bytes).expect("JSON");
            bytes.clear();
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Decodes Chromium's base64, which has no line breaks.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> =
        text.bytes().map_while(|byte| DIGITS.iter().position(|d| *d == byte)).map(|d| d as u32).collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits = group.iter().enumerate().fold(0, |bits, (i, digit)| bits | digit << (18 - 6 * i));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
