use super::*;
use crate::model::Browser;
use proptest::prelude::*;

fn read(json: &str) -> LaunchOptions {
    LaunchOptions::read(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn refused(json: &str) -> LaunchError {
    match LaunchOptions::read(json.as_bytes()) {
        Err(error) => error,
        Ok(options) => options
            .check(Browser::Chromium, &Permission::DEFAULT)
            .expect_err(json),
    }
}

fn with_argument(argument: &str) -> String {
    serde_json::json!({ "args": [argument] }).to_string()
}

#[test]
fn what_changes_no_browser_does_not_count() {
    for json in [
        "{}",
        // What Playwright's test runner sends when nobody configured anything.
        r#"{"handleSIGINT":false,"tracesDir":"/t","artifactsDir":"/a","headless":true}"#,
        r#"{"headless":false,"timeout":5000,"handleSIGHUP":true,"handleSIGTERM":false,"logger":{}}"#,
        r#"{"args":[],"channel":"","slowMo":0,"env":{},"proxy":null,"executablePath":""}"#,
        r#"{"firefoxUserPrefs":{},"ignoreDefaultArgs":false,"ignoreAllDefaultArgs":false}"#,
        r#"{"devtools":false,"executablePath":null}"#,
    ] {
        assert!(read(json).is_empty(), "{json}");
    }
}

#[test]
fn equal_options_have_one_digest() {
    let one = read(r#"{"slowMo":20,"args":["--lang=de-DE"],"headless":true}"#);
    let other = read(r#"{"args":["--lang=de-DE"],"slowMo":20.0,"timeout":1}"#);
    assert_eq!(one.digest(), other.digest());
    assert_ne!(one.digest(), read(r#"{"slowMo":20}"#).digest());
    let own = LaunchOptions::of_arguments(vec!["--lang=de-DE".to_owned()]);
    assert_eq!(read(&with_argument("--lang=de-DE")).digest(), own.digest());
}

#[test]
fn what_was_read_is_written_as_playwright_reads_it() {
    let json = r#"{"args":["--lang=dé"],"channel":"chrome","proxy":{"server":"http://p:1","username":"u","password":"hidden"},
        "slowMo":20,"firefoxUserPrefs":{"a.b":true},"ignoreDefaultArgs":["--mute-audio"],"env":{"TZ":"UTC"}}"#;
    let options = read(json);
    let written: Value = serde_json::from_str(&options.to_json()).unwrap();
    let mut expected: Value = serde_json::from_str(json).unwrap();
    expected["slowMo"] = 20.0.into();
    assert_eq!(written, expected);
    let again: LaunchOptions = serde_json::from_str(&options.to_json()).unwrap();
    assert_eq!(again.digest(), options.digest());
    assert!(!format!("{options:?}").contains("hidden"), "{options:?}");
    // Nothing else can come to a worker.
    for stranger in [
        r#"{"executablePath":"/bin/sh"}"#,
        r#"{"downloadsPath":"/"}"#,
    ] {
        assert!(
            serde_json::from_str::<LaunchOptions>(stranger).is_err(),
            "{stranger}"
        );
    }
}

#[test]
fn options_that_are_not_for_clients_are_named() {
    for option in [
        r#""executablePath":"/bin/sh""#,
        r#""downloadsPath":"/tmp""#,
        r#""userDataDir":"/tmp""#,
        r#""cdpPort":0"#,
        r#""chromiumSandbox":false"#,
        r#""chromiumSandbox":true"#,
        r#""env":{"LD_PRELOAD":"/x"}"#,
        r#""ignoreDefaultArgs":true"#,
        r#""ignoreDefaultArgs":["--mute-audio"]"#,
        r#""devtools":true"#,
        r#""whatever":1"#,
    ] {
        let name = option.split('"').nth(1).unwrap();
        let error = refused(&format!("{{\"slowMo\":1,{option}}}"));
        assert_eq!(error, LaunchError::Option(name.to_owned()), "{option}");
    }
    let all = refused(r#"{"ignoreAllDefaultArgs":true}"#);
    assert_eq!(all, LaunchError::Option("ignoreDefaultArgs".to_owned()));
    let strange = refused(&format!(r#"{{"\u001b[31m{}":1}}"#, "ä".repeat(500)));
    assert!(strange.to_string().is_ascii() && strange.to_string().len() < 120);
}

#[test]
fn what_is_no_launch_options_is_said_to_be_none() {
    let deep = "[".repeat(100_000);
    for json in [
        "",
        "x",
        "[]",
        "1",
        "null",
        "{\"args\":",
        "{\"args\":[\"\\ud800\"]}",
        &deep,
    ] {
        let error = LaunchOptions::read(json.as_bytes()).unwrap_err();
        assert_eq!(error, LaunchError::NoObject);
    }
    assert_eq!(
        LaunchOptions::read(b"{\"channel\":\"\xff\"}").err(),
        Some(LaunchError::NoObject)
    );
    for (option, json) in [
        ("args", r#"{"args":"--lang=de"}"#),
        ("args", r#"{"args":[1]}"#),
        ("args", r#"{"args":["--lang=a\u0000b"]}"#),
        ("channel", r#"{"channel":["chrome"]}"#),
        ("slowMo", r#"{"slowMo":"20"}"#),
        ("slowMo", r#"{"slowMo":-1}"#),
        ("proxy", r#"{"proxy":"http://p"}"#),
        ("proxy", r#"{"proxy":{"server":"file:///etc/passwd"}}"#),
        ("proxy", r#"{"proxy":{"server":"http://p:1 --x"}}"#),
        (
            "proxy",
            r#"{"proxy":{"server":"http://p:1","bypass":"a\nb"}}"#,
        ),
        ("proxy", r#"{"proxy":{"server":"http://p:1","pac":"x"}}"#),
        ("proxy", r#"{"proxy":{"bypass":"x"}}"#),
        ("firefoxUserPrefs", r#"{"firefoxUserPrefs":{"a":{"b":1}}}"#),
        ("firefoxUserPrefs", r#"{"firefoxUserPrefs":["a"]}"#),
    ] {
        let error = LaunchOptions::read(json.as_bytes()).unwrap_err();
        assert!(
            matches!(error, LaunchError::Malformed { option: named, .. } if named == option),
            "{json}: {error}"
        );
    }
    let many = serde_json::json!({ "args": vec!["--lang=de"; 201] });
    assert!(LaunchOptions::read(many.to_string().as_bytes()).is_err());
}

#[test]
fn arguments_that_suites_use_are_allowed() {
    for argument in [
        "--lang=de-DE",
        "-lang=de",
        "--window-size=1920,1080",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-web-security",
        "--disable-blink-features=AutomationControlled",
        "--disable-features=IsolateOrigins,site-per-process",
        "--enable-features=A<B.C:key/value",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        "--force-device-scale-factor=2",
        "--font-render-hinting=none",
        "--ignore-certificate-errors",
        "--host-resolver-rules=MAP * 127.0.0.1",
        "--proxy-bypass-list=.example.org;<-loopback>",
        "--user-agent=Mozilla/5.0 (X11; Linux x86_64) a+b",
        "--js-flags=--expose-gc --max_old_space_size=4096",
        "--start-maximized",
        "--headless=new",
    ] {
        let options = read(&with_argument(argument));
        let checked = options.check(Browser::Chromium, &Permission::DEFAULT);
        assert_eq!(checked, Ok(()), "{argument}");
    }
}

#[test]
fn arguments_that_reach_beyond_the_browser_are_named() {
    for argument in [
        "--remote-debugging-port=9222",
        "-remote-debugging-port=9222",
        "--remote-debugging-port",
        "--remote-debugging-pipe",
        "--remote-debugging-address=0.0.0.0",
        "--remote-debugging-targets=x",
        "--remote-allow-origins=*",
        "--Remote-Debugging-Port=1",
        "--user-data-dir=/tmp/x",
        "--no-sandbox",
        "-no-sandbox",
        "--disable-setuid-sandbox",
        "--disable-gpu-sandbox",
        "--disable-seccomp-filter-sandbox",
        "--no-zygote",
        "--single-process",
        "--load-extension=/tmp/x",
        "--disable-extensions-except=/tmp/x",
        "--renderer-cmd-prefix=/bin/sh -c",
        "--utility-cmd-prefix=sh",
        "--gpu-launcher=sh",
        "--browser-subprocess-path=/bin/sh",
        "--log-file=/tmp/x",
        "--log-net-log=/tmp/x",
        "--crash-dumps-dir=/tmp",
        "--disk-cache-dir=/tmp",
        "--trace-startup-file=/tmp/x",
        "--use-file-for-fake-video-capture=/etc/passwd",
        "--allow-file-access-from-files",
        "--proxy-pac-url=file:///etc/passwd",
        "--js-flags=--logfile=/tmp/x --prof",
        "--js-flags=--expose-gc,--log_all",
        "--disable-features=NetworkServiceSandbox",
        "--lang=file:///etc/passwd",
        "--lang=/etc/passwd",
        "--lang=../x",
        "--an-argument-of-next-year",
    ] {
        let name = argument.split('=').next().unwrap().to_owned();
        let error = refused(&with_argument(argument));
        assert_eq!(error, LaunchError::Argument(name));
    }
    // What stands alone is the value of the argument before, or a page.
    for argument in [
        "9222",
        "http://x",
        "--",
        "-",
        "---lang",
        "--lang\u{e9}",
        " --lang=de",
    ] {
        let error = refused(&with_argument(argument));
        assert!(matches!(error, LaunchError::Argument(_)), "{argument}");
    }
}

#[test]
fn preferences_that_reach_beyond_the_browser_are_named() {
    let check = |name: &str, value: Value| {
        let options = read(&serde_json::json!({"firefoxUserPrefs": {name: value}}).to_string());
        options.check(Browser::Firefox, &Permission::DEFAULT)
    };
    assert_eq!(check("intl.accept_languages", "de".into()), Ok(()));
    assert_eq!(check("dom.webnotifications.enabled", true.into()), Ok(()));
    for (name, value) in [
        ("devtools.debugger.remote-enabled", true.into()),
        ("marionette.port", 1.into()),
        ("Remote.active-protocols", 3.into()),
        ("security.sandbox.content.level", 0.into()),
        ("browser.download.dir", "x".into()),
        ("logging.config.LOG_FILE", "x".into()),
        ("network.proxy.autoconfig_url", "file:///etc/passwd".into()),
        ("some.folder", "/etc".into()),
    ] {
        let name = name.to_owned();
        assert_eq!(
            check(&name, value),
            Err(LaunchError::Preference(name.clone()))
        );
    }
}

#[test]
fn the_configuration_allows_more_or_less() {
    let allowed = |words: &[&str]| -> Vec<Permission> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    };
    let check = |json: &str, words: &[&str]| read(json).check(Browser::Chromium, &allowed(words));
    let language = with_argument("--lang=de");
    let extension = with_argument("--load-extension=/srv/x");
    let of_option = |name: &str| Err(LaunchError::Option(name.to_owned()));
    assert_eq!(check(&language, &[]), of_option("args"));
    assert_eq!(check(&language, &["slowMo"]), of_option("args"));
    assert_eq!(check(&extension, &["args", "--load-extension"]), Ok(()));
    assert_eq!(check(&extension, &["--load-extension"]), Ok(()));
    let argument = Err(LaunchError::Argument("--lang".to_owned()));
    assert_eq!(check(&language, &["--load-extension"]), argument);
    assert_eq!(check(r#"{"env":{"TZ":"UTC"}}"#, &["env"]), Ok(()));
    assert_eq!(
        check(r#"{"ignoreDefaultArgs":true}"#, &["ignoreDefaultArgs"]),
        Ok(())
    );
    for never in [
        "--remote-debugging-port",
        "--user-data-dir",
        "executablePath",
        "downloadsPath",
        "Args",
        "--",
        "--a=b",
        "",
    ] {
        assert_eq!(
            never.parse::<Permission>(),
            Err(UnknownPermission),
            "{never}"
        );
    }
    for permission in Permission::DEFAULT {
        assert_eq!(permission.to_string().parse(), Ok(permission));
    }
}

proptest! {
    /// Whatever somebody sends is judged, and what is allowed can be written and read again.
    #[test]
    fn anything_is_judged(text in "[\\{\\}\\[\\]\":,a-z0-9=/. -]{0,60}", argument in "-{0,3}[a-zA-Z-]{0,24}(=.{0,12})?") {
        LaunchOptions::read(text.as_bytes()).ok();
        if let Ok(options) = LaunchOptions::read(with_argument(&argument).as_bytes())
            && options.check(Browser::Chromium, &Permission::DEFAULT).is_ok()
        {
            let name = argument.trim_start_matches('-');
            prop_assert!(argument.is_empty() || argument.starts_with('-'));
            prop_assert!(!name.starts_with("remote-debugging") && !name.starts_with("user-data-dir"));
            let again: LaunchOptions = serde_json::from_str(&options.to_json()).unwrap();
            prop_assert_eq!(again.digest(), options.digest());
        }
    }
}

#[test]
fn how_many_there_may_be_is_told() {
    let many = vec!["--lang=de"; MOST_ITEMS + 1];
    let many = serde_json::json!({ "args": many }).to_string();
    let error = LaunchOptions::read(many.as_bytes()).unwrap_err();
    let most = format!("at most {MOST_ITEMS}");
    assert!(error.to_string().contains(&most), "{error}");
}
