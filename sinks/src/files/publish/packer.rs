//! The thread that packs blocks, so that the one behind it, which waits for the disk, finds them ready.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use super::super::config::Codec;
use super::{Block, Commit, Job};

/// What the writing thread gets, in the order of the jobs.
pub(super) enum Task {
    Block(Packed),
    Commit(Commit),
    /// A block could not be packed: nothing follows.
    Failed(io::Error),
}

/// A block that is ready to be written.
pub(super) struct Packed {
    /// Without its bodies.
    pub(super) block: Block,
    /// Bytes of its bodies.
    pub(super) size: usize,
    /// As it stands in the file.
    pub(super) content: Vec<u8>,
}

/// The thread's own.
pub(super) struct Packer {
    pub(super) codec: Codec,
    pub(super) abandoned: Arc<AtomicBool>,
}

impl Packer {
    /// Until the publisher or the writing thread is gone.
    pub(super) fn run(self, jobs: &Receiver<Job>, tasks: &Sender<Task>) {
        while let Ok(job) = jobs.recv() {
            if self.abandoned.load(Ordering::Relaxed) {
                return;
            }
            let task = match job {
                Job::Block(block) => self.packed(block).map_or_else(Task::Failed, Task::Block),
                Job::Commit(commit) => Task::Commit(commit),
            };
            if tasks.send(task).is_err() {
                return;
            }
        }
    }

    fn packed(&self, mut block: Block) -> io::Result<Packed> {
        let bodies = std::mem::take(&mut block.bodies);
        let size = bodies.len();
        Ok(Packed { block, size, content: self.codec.pack(bodies)? })
    }
}
