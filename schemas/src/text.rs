//! A record as text: the line that `lfs changelog` prints, and JSON for people and scripts.
//!
//! The line is the ground truth that captures are compared with, so it prints what the tool prints, unspecified
//! bytes included. JSON holds only what is specified.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::lustre::View;

/// Open flags that the tool looks at (`lustre_user.h`): read, write, execute, truncate, append.
mod open {
    pub(super) const READ: u32 = 0x1;
    pub(super) const WRITE: u32 = 0x2;
    pub(super) const EXEC: u32 = 0x4;
    pub(super) const TRUNC: u32 = 0x200;
    pub(super) const APPEND: u32 = 0x400;
}

/// Appends the line that `lfs changelog` prints for the record, newline included.
pub fn lfs_line(view: &View<'_>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write_line(view, out);
}

fn write_line(view: &View<'_>, out: &mut Vec<u8>) -> std::io::Result<()> {
    let rtype = view.rtype();
    let time = view.time();
    let at = time.civil();
    write!(
        out,
        "{} {:02}{:<5} {:02}:{:02}:{:02}.{:09} {:04}.{:02}.{:02} 0x{:x} t={}",
        view.index(),
        rtype.0,
        rtype.name().unwrap_or("?????"),
        at.hour,
        at.minute,
        at.second,
        time.subsec(),
        at.year,
        at.month,
        at.day,
        view.flags(),
        view.tfid_raw(),
    )?;
    if let Some(jobid) = view.jobid().filter(|j| !j.is_empty()) {
        out.extend_from_slice(b" j=");
        out.extend_from_slice(jobid);
    }
    if let Some(extra) = view.extra_flags() {
        write!(out, " ef=0x{extra:x}")?;
    }
    if let Some((uid, gid)) = view.uid_gid() {
        write!(out, " u={uid}:{gid}")?;
    }
    if let Some(nid) = view.nid() {
        write!(out, " nid={nid}")?;
    }
    if let Some(mode) = view.open_mode().and_then(mode_text) {
        write!(out, " m={mode}")?;
    }
    if let Some(xattr) = view.xattr().filter(|x| !x.is_empty()) {
        out.extend_from_slice(b" x=");
        out.extend_from_slice(xattr);
    }
    if !view.pfid_raw().is_zero() {
        write!(out, " p={}", view.pfid_raw())?;
    }
    let names = view.names_raw();
    if !names.is_empty() {
        out.push(b' ');
        // Of a MARK too, whose name is garbage: like C's %.*s, up to its NUL.
        out.extend_from_slice(names.split(|b| *b == 0).next().unwrap_or_default());
    }
    if let Some(rename) = view.rename().filter(|r| !r.sfid.is_zero()) {
        write!(out, " s={} sp={} ", rename.sfid, rename.spfid)?;
        out.extend_from_slice(rename.sname.unwrap_or_default());
    }
    out.push(b'\n');
    Ok(())
}

/// How the tool prints an open mode; `None` for one that it leaves out.
fn mode_text(mode: u32) -> Option<&'static str> {
    let read = mode & open::READ != 0;
    let write = mode & (open::WRITE | open::TRUNC | open::APPEND) != 0;
    match (mode & open::EXEC != 0, read, write) {
        (true, ..) => Some("--x"),
        (_, true, true) => Some("rw-"),
        (_, true, false) => Some("r--"),
        (_, false, true) => Some("-w-"),
        (_, false, false) => None,
    }
}

/// The record as one JSON object: FIDs and NIDs as text, the time as RFC 3339, only what is there and specified.
///
/// A name that is not UTF-8 has replacement characters, and its bytes in hexadecimal beside it (`name_raw`).
#[must_use]
pub fn json(view: &View<'_>) -> Value {
    let mut o = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            o.insert(key.to_owned(), value);
        }
    };
    let rtype = view.rtype();
    put("index", json!(view.index()));
    put("type", json!(rtype.name().unwrap_or("UNKNOWN")));
    put("type_code", json!(rtype.0));
    put("time", json!(view.time().to_string()));
    put("flags", json!(view.flags()));
    put("marker_flags", json!(view.marker_flags()));
    if view.marker_flags().is_none() {
        put("tfid", json!(view.tfid().to_string()));
    }
    put("pfid", json!(view.parent().map(|f| f.to_string())));
    put("name", json!(view.name().map(String::from_utf8_lossy)));
    put("name_raw", raw(view.name()));
    if let Some(rename) = view.rename().filter(|r| !r.sfid.is_zero()) {
        put("sfid", json!(rename.sfid.to_string()));
        put("spfid", json!(rename.spfid.to_string()));
        put("sname", json!(rename.sname.map(String::from_utf8_lossy)));
        put("sname_raw", raw(rename.sname));
    }
    let text = |bytes: Option<&[u8]>| json!(bytes.filter(|b| !b.is_empty()).map(String::from_utf8_lossy));
    put("jobid", text(view.jobid()));
    put("extra_flags", json!(view.extra_flags()));
    put("uid", json!(view.uid_gid().map(|(uid, _)| uid)));
    put("gid", json!(view.uid_gid().map(|(_, gid)| gid)));
    let nid = view.nid().filter(|nid| !nid.is_zero());
    put("nid", json!(nid.map(|nid| nid.to_string())));
    put("open_mode", json!(view.open_mode()));
    put("xattr", text(view.xattr()));
    Value::Object(o)
}

/// The bytes in hexadecimal if they are not UTF-8.
fn raw(bytes: Option<&[u8]>) -> Value {
    let odd = bytes.filter(|b| std::str::from_utf8(b).is_err());
    json!(odd.map(|b| { b.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }))
}
