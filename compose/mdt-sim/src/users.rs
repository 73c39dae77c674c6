//! Changelog users: who is registered, what each has cleared, what the effective mask is, who has been idle for too
//! long; and the text of `changelog_users`. Decisions only: nothing here touches records or disk.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::mask;

/// One registered user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The number in `clN`; never used again on this MDT.
    pub id: u32,
    /// The name of `clN-NAME`.
    pub name: Option<String>,
    /// The user's own mask of record types.
    pub mask: Option<u32>,
    /// Everything up to here is cleared.
    pub index: u64,
    /// When it registered or last cleared, nanoseconds since 1970.
    pub touched_ns: u64,
}

impl User {
    /// `cl1` or `cl2-NAME`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("cl{}-{name}", self.id),
            None => format!("cl{}", self.id),
        }
    }

    fn idle_s(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.touched_ns) / 1_000_000_000
    }
}

/// All users of one MDT, and its masks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    list: Vec<User>,
    next_id: u32,
    /// `changelog_mask`: the administrator's.
    admin_mask: u32,
    /// The administrator's mask set with `-P`, which a restart brings back.
    kept_mask: Option<u32>,
    /// `changelog_current_mask`.
    effective: u32,
}

impl Default for Users {
    fn default() -> Self {
        Self { list: Vec::new(), next_id: 1, admin_mask: mask::MARK, kept_mask: None, effective: mask::MARK }
    }
}

/// The generations of the text of `changelog_users`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum UsersForm {
    /// Lustre 2.10 and before: no idle time.
    #[serde(rename = "2.10")]
    #[value(name = "2.10")]
    V2_10,
    /// Lustre 2.12: idle seconds.
    #[serde(rename = "2.12")]
    #[value(name = "2.12")]
    V2_12,
    /// Lustre 2.15 and later: names and masks.
    #[serde(rename = "2.15")]
    #[value(name = "2.15")]
    V2_15,
}

/// When an idle user is removed by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcLimits {
    /// `changelog_max_idle_time`, seconds.
    pub max_idle_s: u64,
    /// `changelog_max_idle_indexes`, records not cleared.
    pub max_idle_indexes: u64,
    /// `changelog_min_gc_interval`, seconds between two looks.
    pub min_interval_s: u64,
}

impl Default for GcLimits {
    fn default() -> Self {
        Self { max_idle_s: 2_592_000, max_idle_indexes: 2_097_446_912, min_interval_s: 3600 }
    }
}

/// A refused command of the administrator or a reader, as the kernel's error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Reads a clear as the kernel's `sscanf("clear:cl%u:%llu")` does: decimal only (so `0x10` is 0), whatever follows is
/// ignored, numbers wrap around.
///
/// # Errors
/// `EINVAL` for anything else and for more than 64 bytes.
pub fn parse_clear(text: &[u8]) -> Result<(u32, u64), Errno> {
    let invalid = Errno(libc::EINVAL);
    if text.len() > 64 {
        return Err(invalid);
    }
    let rest = text.strip_prefix(b"clear:cl").ok_or(invalid)?;
    let (id, rest) = number(rest).ok_or(invalid)?;
    let rest = rest.strip_prefix(b":").ok_or(invalid)?;
    let (index, _) = number(rest).ok_or(invalid)?;
    Ok((id as u32, index))
}

/// A decimal number as the kernel's `vsscanf` takes it: blanks first, then at least one digit.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let value = text[..digits].iter().fold(0u64, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(d - b'0')));
    Some((value, &text[digits..]))
}

impl Users {
    /// Everybody, in the order of registration.
    #[must_use]
    pub fn list(&self) -> &[User] {
        &self.list
    }

    /// `changelog_current_mask`.
    #[must_use]
    pub fn effective_mask(&self) -> u32 {
        self.effective
    }

    /// The highest index that every user has cleared; `None` without users.
    #[must_use]
    pub fn cleared_by_all(&self) -> Option<u64> {
        self.list.iter().map(|u| u.index).min()
    }

    /// Registers a user, who starts behind the newest record.
    ///
    /// # Errors
    /// `EEXIST` for a name in use, `EINVAL` for a name that is not 1 to 15 letters, digits, `_` or `-`.
    pub fn register(&mut self, name: Option<&str>, mask: Option<u32>, last: u64, now_ns: u64) -> Result<u32, Errno> {
        if let Some(name) = name {
            let good = (1..=15).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !good {
                return Err(Errno(libc::EINVAL));
            }
            if self.list.iter().any(|u| u.name.as_deref() == Some(name)) {
                return Err(Errno(libc::EEXIST));
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.list.push(User { id, name: name.map(str::to_owned), mask, index: last, touched_ns: now_ns });
        self.recalculate();
        Ok(id)
    }

    /// Finds a user by `cl2`, `cl2-NAME` or `NAME`.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u32> {
        self.list
            .iter()
            .find(|u| text == format!("cl{}", u.id) || text == u.label() || u.name.as_deref() == Some(text))
            .map(|u| u.id)
    }

    /// Removes a user.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that number.
    pub fn deregister(&mut self, id: u32) -> Result<User, Errno> {
        let at = self.list.iter().position(|u| u.id == id).ok_or(Errno(libc::ENOENT))?;
        let gone = self.list.remove(at);
        self.recalculate();
        Ok(gone)
    }

    /// Executes a clear. `backwards` is the error that this server's version gives for less than the user's index.
    /// Returns the user's index before and after.
    ///
    /// # Errors
    /// `EINVAL` beyond the newest index (looked at first), `ENOENT` for an unknown user, `backwards`.
    pub fn clear(
        &mut self,
        id: u32,
        index: u64,
        last: u64,
        now_ns: u64,
        backwards: Errno,
    ) -> Result<(u64, u64), Errno> {
        if index > last {
            return Err(Errno(libc::EINVAL));
        }
        let upto = if index == 0 { last } else { index };
        let user = self.list.iter_mut().find(|u| u.id == id).ok_or(Errno(libc::ENOENT))?;
        if upto < user.index {
            return Err(backwards);
        }
        let before = user.index;
        user.index = upto;
        user.touched_ns = now_ns;
        Ok((before, upto))
    }

    /// Moves users that are behind to `upto` without their asking.
    pub fn push_forward(&mut self, upto: u64) {
        for user in &mut self.list {
            user.index = user.index.max(upto);
        }
    }

    /// Puts everybody back to the beginning of a new log.
    pub fn restart_indexes(&mut self) {
        for user in &mut self.list {
            user.index = 0;
        }
    }

    /// Sets the administrator's mask; `keep` as with `lctl set_param -P`.
    pub fn set_mask(&mut self, mask: u32, keep: bool) {
        self.admin_mask = mask;
        if keep {
            self.kept_mask = Some(mask);
        }
        self.recalculate();
    }

    /// What an MDT restart does to the masks: the administrator's is lost unless it was kept, and as long as nobody
    /// (de)registers, one user with a mask of its own hides the default of those without.
    pub fn restart_masks(&mut self) {
        self.admin_mask = self.kept_mask.unwrap_or(mask::MARK);
        let own = self.list.iter().filter_map(|u| u.mask).reduce(|a, b| a | b);
        match own {
            Some(own) => self.effective = self.admin_mask | own,
            None => self.recalculate(),
        }
    }

    fn recalculate(&mut self) {
        self.effective = self.list.iter().fold(self.admin_mask, |m, u| m | u.mask.unwrap_or(mask::DEFAULT));
    }

    /// Makes everybody look idle for longer, by this many nanoseconds.
    pub fn age(&mut self, ns: u64) {
        for user in &mut self.list {
            user.touched_ns = user.touched_ns.saturating_sub(ns);
        }
    }

    /// The users that are idle beyond the limits and would be removed by force.
    #[must_use]
    pub fn idle_beyond(&self, limits: &GcLimits, last: u64, now_ns: u64) -> Vec<u32> {
        self.list
            .iter()
            .filter(|u| u.idle_s(now_ns) > limits.max_idle_s || last.saturating_sub(u.index) > limits.max_idle_indexes)
            .map(|u| u.id)
            .collect()
    }

    /// The text of `changelog_users`.
    #[must_use]
    pub fn text(&self, form: UsersForm, last: u64, now_ns: u64) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = match form {
            UsersForm::V2_10 => writeln!(out, "current index: {last}\n{:<5} index", "ID"),
            UsersForm::V2_12 => writeln!(out, "current index: {last}\n{:<5} index (idle seconds)", "ID"),
            UsersForm::V2_15 => writeln!(out, "current_index: {last}\n{:<24} {:>10} (idle) mask", "ID", "index"),
        };
        for user in &self.list {
            let idle = user.idle_s(now_ns);
            let _ = match form {
                UsersForm::V2_10 => writeln!(out, "cl{:<3} {}", user.id, user.index),
                UsersForm::V2_12 => writeln!(out, "cl{:<3} {} ({idle})", user.id, user.index),
                UsersForm::V2_15 => {
                    let mask = user.mask.map(|m| format!(" mask={}", mask::names(m, ","))).unwrap_or_default();
                    writeln!(out, "{:<24} {:>10} ({idle}){mask}", user.label(), user.index)
                }
            };
        }
        out
    }
}
