//! Where the configuration comes from: files first, the environment over them, secrets from files of their own.
//!
//! Every error names the key. No value of a key is ever printed from here, since it may be a secret.

use std::path::{Path, PathBuf};

use config::{File, FileFormat, Map, Value, ValueKind};
use thiserror::Error;

use super::Config;

/// Variables that begin with `CLBRIDGE_` and are no keys of the configuration.
const NOT_KEYS: [&str; 3] = ["CLBRIDGE_CONFIG", "CLBRIDGE_URL", "CLBRIDGE_FAILPOINT"];
const PREFIX: &str = "CLBRIDGE_";

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read or is not TOML, or a value has the wrong type.
    #[error("{}{}", key.as_ref().map(|k| format!("configuration key `{k}`: ")).unwrap_or_default(), why)]
    Unreadable {
        /// The key, where it is known.
        key: Option<String>,
        /// What is wrong.
        why: String,
    },
    /// Every value can be read, but they make no sense together.
    #[error("configuration key `{key}`: {why}")]
    Impossible {
        /// The key to change.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl ConfigError {
    /// The key that the error is about, where it is known.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unreadable { key, .. } => key.as_deref(),
            Self::Impossible { key, .. } => Some(key),
        }
    }

    pub(super) fn impossible(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Impossible { key: key.into(), why: why.into() }
    }
}

/// Reads the files in order (a later one wins key by key), then the variables `CLBRIDGE_…` among `env` over them.
///
/// # Errors
/// A file that cannot be read, an unknown key, a value of the wrong type, an impossible combination.
pub(super) fn load(files: &[PathBuf], env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let mut builder = config::Config::builder();
    for file in files {
        builder = builder.add_source(File::from(file.as_path()).format(FileFormat::Toml));
    }
    builder = builder.add_source(Environment::new(env)?);
    let merged = builder.build().map_err(|e| ConfigError::Unreadable { key: None, why: e.to_string() })?;
    let mut root = merged.cache;
    secrets(&mut root, &mut Vec::new())?;
    let config: Config = serde_path_to_error::deserialize(root).map_err(|e| {
        let path = e.path().to_string();
        ConfigError::Unreadable { key: (path != ".").then_some(path), why: e.into_inner().to_string() }
    })?;
    super::check::check(&config)?;
    Ok(config)
}

/// `CLBRIDGE_SOURCE__USER=cl2` sets `source.user`. A value that begins with `[` or `{` is TOML, anything else text
/// that is turned into what the key wants.
#[derive(Clone, Debug)]
struct Environment {
    keys: Vec<(Vec<String>, ValueKind)>,
}

impl Environment {
    fn new(env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut keys = Vec::new();
        for (name, text) in env {
            let Some(key) = name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str())) else {
                continue;
            };
            let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
            keys.push((path, value(&text, &name)?));
        }
        // The shorter first, so that a key inside a table wins over the variable that gives the whole table.
        keys.sort_by_key(|(path, _)| path.len());
        Ok(Self { keys })
    }
}

fn value(text: &str, name: &str) -> Result<ValueKind, ConfigError> {
    if !text.starts_with(['[', '{']) {
        return Ok(ValueKind::String(text.to_owned()));
    }
    let unreadable = |why: String| ConfigError::Unreadable { key: Some(name.to_owned()), why };
    let document = format!("v = {text}");
    let parsed = config::Config::builder()
        .add_source(File::from_str(&document, FileFormat::Toml))
        .build()
        .map_err(|_| unreadable("it begins like a TOML list or table, but is not one".to_owned()))?;
    parsed.get::<Value>("v").map(|v| v.kind).map_err(|e| unreadable(e.to_string()))
}

impl config::Source for Environment {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let mut root = Map::new();
        for (path, kind) in &self.keys {
            insert(&mut root, path, kind.clone());
        }
        Ok(root)
    }
}

fn insert(into: &mut Map<String, Value>, path: &[String], kind: ValueKind) {
    let origin = "the environment".to_owned();
    match path {
        [] => {}
        [last] => {
            into.insert(last.clone(), Value::new(Some(&origin), kind));
        }
        [first, rest @ ..] => {
            let entry =
                into.entry(first.clone()).or_insert_with(|| Value::new(Some(&origin), ValueKind::Table(Map::new())));
            if !matches!(entry.kind, ValueKind::Table(_)) {
                entry.kind = ValueKind::Table(Map::new());
            }
            if let ValueKind::Table(table) = &mut entry.kind {
                insert(table, rest, kind);
            }
        }
    }
}

/// A table whose only key is `file` stands for that file's content without its last newline, wherever a text may be.
fn secrets(value: &mut Value, path: &mut Vec<String>) -> Result<(), ConfigError> {
    match &mut value.kind {
        ValueKind::Table(table) => {
            if table.len() == 1
                && let Some(Value { kind: ValueKind::String(file), .. }) = table.get("file")
            {
                let text = std::fs::read_to_string(Path::new(file)).map_err(|e| ConfigError::Unreadable {
                    key: Some(path.join(".")),
                    why: format!("the file {file} that holds its value cannot be read: {e}"),
                })?;
                value.kind = ValueKind::String(text.trim_end_matches(['\r', '\n']).to_owned());
                return Ok(());
            }
            for (key, inner) in table.iter_mut() {
                path.push(key.clone());
                secrets(inner, path)?;
                path.pop();
            }
        }
        ValueKind::Array(list) => {
            for (i, inner) in list.iter_mut().enumerate() {
                path.push(i.to_string());
                secrets(inner, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}
