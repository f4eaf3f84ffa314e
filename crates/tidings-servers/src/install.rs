//! The programs of the servers and how they get onto a machine: from apt, and Kafka itself from Maven's repository.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Attempt as _;
use crate::process::is_root;
use crate::{Error, Result};

/// The newest that Maven's central repository has in full: 4.4.0 came without its `kafka-tools-api`.
const KAFKA_VERSION: &str = "4.4.0";

/// The oldest Java that Kafka 4 runs on.
const JAVA_LEAST: u32 = 17;

/// The variable that names a directory with Kafka's jars, instead of the one in the target directory.
const KAFKA_LIBS_VARIABLE: &str = "TIDINGS_KAFKA_LIBS";

/// Debian's package starts a server of its own unless told not to; only its programs are wanted.
const NO_SERVER: &str = "mkdir -p /etc/postgresql-common && cd /etc/postgresql-common &&
    { test -e createcluster.conf || echo create_main_cluster = false >createcluster.conf; }";

const APT: &str = "export DEBIAN_FRONTEND=noninteractive
    apt-get update -q && apt-get install -qy --no-install-recommends \"$@\"";

/// Unpacks Debian's package of Prometheus here.
const FETCH_PROMETHEUS: &str = "exec >&2; rm -rf fetched && mkdir fetched && cd fetched &&
    apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb ../prometheus && cd .. && rm -rf fetched";

/// Makes sure that PostgreSQL's server is there.
pub(crate) fn postgres() -> Result<()> {
    let _alone = lock()?;
    if postgres_programs().is_err() {
        if Path::new("/etc/debian_version").exists() {
            as_root(NO_SERVER, &[]);
        }
        apt(&["postgresql"], "PostgreSQL's server")?;
    }
    postgres_programs().map(drop)
}

/// Makes sure that Java and Kafka's jars are there.
pub(crate) fn kafka() -> Result<()> {
    let _alone = lock()?;
    if java_version().is_none_or(|version| version < JAVA_LEAST) {
        apt(&["default-jre-headless"], &format!("Java {JAVA_LEAST} or later"))?;
    }
    if kafka_jars().is_err() {
        if on_path("mvn").is_none() {
            apt(&["maven"], "Maven")?;
        }
        fetch_kafka()?;
    }
    kafka_jars().map(drop)
}

/// Makes sure that Kafka's client can be compiled, which wants more than Rust does.
///
/// # Errors
///
/// One line that says what to install, where it cannot.
pub fn compilers() -> Result<()> {
    if ["cc", "c++", "make"].into_iter().all(|tool| on_path(tool).is_some()) {
        return Ok(());
    }
    apt(&["build-essential"], "a C and C++ compiler, or make,")
}

/// A browser that tests drive, installed where it is missing.
///
/// # Errors
///
/// One line that says what to install, where it cannot.
pub fn chromium() -> Result<PathBuf> {
    let _alone = lock()?;
    let found = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(program);
    if found().is_none() {
        apt(&["chromium", "fonts-dejavu-core"], "a browser")?;
    }
    found().ok_or_else(|| Error::new("a browser was installed and is not on the PATH"))
}

/// Prometheus' own judge of metrics and rules; fetched into the target directory where it is missing, since Debian's
/// package would start a server.
///
/// # Errors
///
/// One line that says what to install, where it cannot.
pub fn promtool() -> Result<PathBuf> {
    let _alone = lock()?;
    let fetched = target_dir().join("servers/prometheus/usr/bin/promtool");
    let found = || program("promtool").or_else(|| fetched.is_file().then(|| fetched.clone()));
    if let Some(found) = found() {
        return Ok(found);
    }
    eprintln!("$ apt-get download prometheus");
    let home = target_dir().join("servers");
    let fetch = || {
        let mut command = Command::new("sh");
        command.args(["-c", FETCH_PROMETHEUS]).current_dir(&home).stdin(Stdio::null());
        command.status().is_ok_and(|done| done.success())
    };
    if !fetch() {
        // The lists of packages may be missing or old.
        as_root("apt-get update -q", &[]);
        fetch();
    }
    found().ok_or_else(|| {
        Error::new(
            "promtool is missing and could not be fetched: install it (Debian's package is prometheus)",
        )
    })
}

fn program(name: &str) -> Option<PathBuf> {
    on_path(name).map(|directory| directory.join(name))
}

/// The directory of `initdb` and `postgres`: Debian keeps each version's apart, and off the `PATH`.
pub(crate) fn postgres_programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").exists())
        .max()
        .map(|(_, programs)| programs);
    debian.or_else(|| on_path("initdb")).ok_or_else(|| {
        Error::new("no PostgreSQL: install its server, with initdb and postgres on the PATH, or run `cargo xtask test`")
    })
}

/// The directory of Kafka's jars.
pub(crate) fn kafka_jars() -> Result<PathBuf> {
    let jars = match env::var_os(KAFKA_LIBS_VARIABLE) {
        Some(named) => PathBuf::from(named),
        None => kafka_home().join("libs"),
    };
    if jars.is_dir() {
        return Ok(jars);
    }
    Err(Error::new(format!(
        "no Kafka in {}: run `cargo xtask test`, or set {KAFKA_LIBS_VARIABLE} to a directory with its jars",
        jars.display()
    )))
}

/// The target directory that this program was built into.
#[must_use]
pub fn target_dir() -> PathBuf {
    // Cargo marks it. A documentation test is built elsewhere.
    let this = env::current_exe().unwrap_or_default();
    let marked = this.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    marked.map(Path::to_owned).unwrap_or_else(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
    })
}

fn kafka_home() -> PathBuf {
    target_dir().join(format!("servers/kafka-{KAFKA_VERSION}"))
}

/// Has Maven copy Kafka with all that it depends on; the directory has its name when it is complete.
fn fetch_kafka() -> Result<()> {
    eprintln!("fetching Kafka {KAFKA_VERSION}");
    let home = kafka_home();
    let cannot = || format!("cannot prepare {}", home.display());
    fs::write(home.join("pom.xml"), pom()).attempt(cannot)?;
    let log = File::create(home.join("maven.log")).attempt(cannot)?;
    let log_too = log.try_clone().attempt(cannot)?;
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--no-transfer-progress", "dependency:copy-dependencies"]);
    maven.current_dir(&home).stdin(Stdio::null()).stdout(log).stderr(log_too);
    if maven.status().is_ok_and(|done| done.success()) {
        return fs::rename(home.join("incomplete"), home.join("libs")).attempt(cannot);
    }
    Err(Error::new(format!(
        "cannot fetch Kafka {KAFKA_VERSION} with Maven: let it reach a repository, or set {KAFKA_LIBS_VARIABLE} to \
         a directory with Kafka's jars; it said why in {}",
        home.join("maven.log").display()
    )))
}

/// Kafka, its tools, and something that writes its log.
fn pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let dependencies = [
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    ];
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>tidings</groupId><artifactId>kafka</artifactId><version>{KAFKA_VERSION}</version><packaging>pom</packaging>
<dependencies>
{}
</dependencies>
<build><plugins><plugin>
<artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
<configuration><outputDirectory>incomplete</outputDirectory></configuration>
</plugin></plugins></build>
</project>
"#,
        dependencies.join("\n")
    )
}

fn java_version() -> Option<u32> {
    let printed = Command::new("java").arg("-version").stdin(Stdio::null()).output().ok()?;
    major_version(&String::from_utf8_lossy(&printed.stderr))
}

/// Of `openjdk version "17.0.15" 2025-04-15` the 17.
fn major_version(printed: &str) -> Option<u32> {
    printed.split('"').nth(1)?.split(['.', '-', '+']).next()?.parse().ok()
}

/// Installs Debian's packages, or says in one line what is to be installed.
fn apt(packages: &[&str], what: &str) -> Result<()> {
    let names = packages.join(" ");
    if !Path::new("/etc/debian_version").exists() {
        return Err(Error::new(format!("{what} is missing: install it (Debian's package is {names})")));
    }
    eprintln!("$ apt-get install {names}");
    if as_root(APT, packages) {
        return Ok(());
    }
    Err(Error::new(format!("{what} is missing and could not be installed: as root, apt-get install {names}")))
}

/// Runs a script as root, who we are or whose rights `sudo` gives without asking. Says whether it worked.
fn as_root(script: &str, args: &[&str]) -> bool {
    let mut command = Command::new(if is_root() { "sh" } else { "sudo" });
    if !is_root() {
        command.args(["-n", "sh"]);
    }
    // Our standard output belongs to the results of the tests.
    command.args(["-c", &format!("exec >&2; {script}"), "sh"]).args(args).stdin(Stdio::null());
    command.status().is_ok_and(|done| done.success())
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).find(|dir| dir.join(program).is_file())
}

/// One installs at a time; the others then find it done. Held until dropped.
fn lock() -> Result<File> {
    let home = kafka_home();
    let cannot = || format!("cannot lock {}", home.display());
    fs::create_dir_all(&home).attempt(cannot)?;
    let lock = File::create(home.join("lock")).attempt(cannot)?;
    lock.lock().attempt(cannot)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn java_says_its_version_in_quotes() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(major_version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(major_version("openjdk version \"26-ea\" 2026-03-17"), Some(26));
        assert_eq!(major_version("java version \"1.8.0_401\""), Some(1), "too old, and so it counts");
        assert_eq!(major_version("no java"), None);
    }
}
