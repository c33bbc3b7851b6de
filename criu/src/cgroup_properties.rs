//! `--cgroup-props`: which files of control groups are described. CRIU's form, a narrow kind of YAML:
//!
//! ```text
//! "cpu":
//!  - "strategy": "replace"
//!  - "properties": ["cpu.shares", "cpu.cfs_period_us"]
//! "memory":
//!  - "strategy": "merge"
//!  - "properties": ["memory.limit_in_bytes"]
//! ```

use std::path::{Path, PathBuf};

use dumper::CgroupProperties;

/// Why settings are not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PropertiesError {
    /// Something else is expected.
    #[error(
        "read properties of control groups: {expected} is expected before {before:?} (form: \"cpu\":, a new line, \
         - \"strategy\": \"merge\" or \"replace\", a new line, - \"properties\": [\"cpu.shares\"])"
    )]
    Expected {
        /// What.
        expected: &'static str,
        /// What is there.
        before: String,
    },
    /// The file cannot be read.
    #[error("read {}, with properties of control groups", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Adds what a text says.
///
/// # Errors
/// If it has another form.
pub(crate) fn read(text: &str, properties: &mut CgroupProperties) -> Result<(), PropertiesError> {
    let mut rest = Rest(text.trim());
    while !rest.0.is_empty() {
        let controller = rest.quoted("the name of a controller in quotes")?;
        rest.symbols(&[":", "-"], "a colon and a hyphen on the next line")?;
        rest.key("strategy", "\"strategy\":")?;
        let strategy = rest.quoted("\"merge\" or \"replace\"")?;
        rest.symbols(&["-"], "a hyphen")?;
        rest.key("properties", "\"properties\":")?;
        let files = rest.list()?;
        match strategy {
            "merge" => properties.merge(controller, files),
            "replace" => properties.replace(controller, files),
            other => return Err(Rest(other).expected("\"merge\" or \"replace\"")),
        }
    }
    Ok(())
}

/// Adds what a file says.
///
/// # Errors
/// If it cannot be read, or has another form.
pub(crate) fn read_file(
    path: &Path,
    properties: &mut CgroupProperties,
) -> Result<(), PropertiesError> {
    let failed = |source| PropertiesError::Read { path: path.to_owned(), source };
    read(&std::fs::read_to_string(path).map_err(failed)?, properties)
}

/// What is still to be read.
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    fn expected(&self, expected: &'static str) -> PropertiesError {
        PropertiesError::Expected { expected, before: self.0.chars().take(20).collect() }
    }

    fn take(&mut self, symbol: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(symbol);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn symbols(&mut self, symbols: &[&str], expected: &'static str) -> Result<(), PropertiesError> {
        match symbols.iter().all(|symbol| self.take(symbol)) {
            true => Ok(()),
            false => Err(self.expected(expected)),
        }
    }

    fn key(&mut self, key: &str, expected: &'static str) -> Result<(), PropertiesError> {
        match self.quoted(expected)? == key && self.take(":") {
            true => Ok(()),
            false => Err(self.expected(expected)),
        }
    }

    fn quoted(&mut self, expected: &'static str) -> Result<&'t str, PropertiesError> {
        let text = self.0.trim_start().strip_prefix('"');
        let parts = text.and_then(|text| text.split_once('"'));
        let (word, rest) =
            parts.filter(|(word, _)| !word.is_empty()).ok_or_else(|| self.expected(expected))?;
        self.0 = rest;
        Ok(word)
    }

    fn list(&mut self) -> Result<Vec<String>, PropertiesError> {
        self.symbols(&["["], "[")?;
        let mut files = Vec::new();
        while !self.take("]") {
            let file = self.quoted("the name of a file in quotes")?;
            if file.contains('/') || file.starts_with("..") {
                return Err(Rest(file).expected("the name of a file, not a path,"));
            }
            files.push(file.to_owned());
            if !self.take(",") && !self.0.trim_start().starts_with(']') {
                return Err(self.expected("a comma or ]"));
            }
        }
        self.0 = self.0.trim_start();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criu_s_form_is_read() {
        let text = "\"cpu\":\n - \"strategy\": \"replace\"\n - \"properties\": [\"cpu.shares\", \"cpu.x\"]\n\
                    \"memory\":\n - \"strategy\": \"merge\"\n - \"properties\": []\n";
        let mut found = CgroupProperties::default();
        read(text, &mut found).unwrap();
        let mut expected = CgroupProperties::default();
        expected.replace("cpu", vec!["cpu.shares".to_owned(), "cpu.x".to_owned()]);
        expected.merge("memory", Vec::new());
        assert_eq!(found, expected);
        read("", &mut found).unwrap();
    }

    #[test]
    fn what_is_no_list_is_said() {
        for (text, said) in [
            ("cpu", "controller"),
            ("\"cpu\": x", "hyphen"),
            ("\"cpu\":\n - \"strategy\": \"other\"\n - \"properties\": [\"a\"]", "merge"),
            ("\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\" \"b\"]", "comma"),
            ("\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"../a\"]", "path"),
            ("\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\",", "quotes"),
        ] {
            let error = read(text, &mut CgroupProperties::default()).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
