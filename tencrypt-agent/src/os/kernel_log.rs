//! The kernel's word that this machine was cloned, in its log: the line that it writes when a virtual machine goes on with
//! another generation id (drivers/char/random.c, `add_vmfork_randomness`, since 5.18). It has seeded its own generator anew
//! before it writes it.
//!
//! Lines that a process wrote into `/dev/kmsg` do not count: the kernel never gives them its own facility
//! (kernel/printk/printk.c, `devkmsg_write`).

use std::{fs, io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags, SeekFrom, open, seek},
    io::{Errno, read as read_once},
};

use super::notice::Notice;

/// The log as records, one a read (Documentation/ABI/testing/dev-kmsg).
const PATH: &str = "/dev/kmsg";

/// Folders of the driver that tells the kernel: on the ACPI bus, and since 6.10 on the platform bus (drivers/virt/vmgenid.c).
const DRIVERS: [&str; 2] = ["/sys/bus/acpi/drivers/vmgenid", "/sys/bus/platform/drivers/vmgenid"];

/// The text of the line.
const CLONED: &[u8] = b"random: crng reseeded due to virtual machine fork";

/// Longest record: `PRINTK_MESSAGE_MAX` (include/linux/printk.h) of text, each byte written as four at most, and its fields.
const LONGEST: usize = 12 << 10;

/// Records taken in one go.
const BURST: usize = 64;

/// The log, from its end at the time of opening.
#[derive(Debug)]
pub struct KernelLog(OwnedFd);

impl KernelLog {
    /// Opens it. Asks for CAP_SYSLOG in the initial user namespace where `kernel.dmesg_restrict` is set.
    ///
    /// # Errors
    /// There is none here, or the kernel refuses it.
    pub fn open() -> io::Result<Self> {
        let log = open(PATH, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        seek(&log, SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// Returns true if this kernel has a generation device to look at, and a driver that does: it writes the line then.
    pub fn tells_of_clones() -> bool {
        DRIVERS.iter().any(|folder| {
            fs::read_dir(folder).is_ok_and(|entries| {
                // Devices are links among the driver's own files, which are none.
                entries.flatten().any(|entry| {
                    entry.file_name() != "module" && entry.file_type().is_ok_and(|kind| kind.is_symlink())
                })
            })
        })
    }

    /// The descriptor, readable when records wait.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// Reads what waits, at most 64 records; `None` if nothing does.
///
/// # Errors
/// The log cannot be read, other than for records that were lost.
pub fn read(log: &OwnedFd) -> io::Result<Option<Notice>> {
    let mut notice = None;
    let mut record = [0; LONGEST];
    for _ in 0..BURST {
        match read_once(log, &mut record) {
            Ok(read) => {
                if record.get(..read).is_some_and(says_cloned) {
                    return Ok(Some(Notice::Cloned));
                }
                notice = Some(Notice::Nothing);
            }
            // Overwritten before they were read.
            Err(Errno::PIPE) => return Ok(Some(Notice::Lost)),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(notice)
}

/// Returns true if this record says so: `FACILITY AND LEVEL,NUMBER,TIME,FLAGS;TEXT`, a line, with fields of the device in
/// lines behind it. The kernel's facility is 0, and the level the lowest three bits.
fn says_cloned(record: &[u8]) -> bool {
    let Some(semicolon) = record.iter().position(|byte| *byte == b';') else { return false };
    let (fields, text) = record.split_at(semicolon);
    let of_kernel = matches!(fields, [b'0'..=b'7', b',', ..]);
    of_kernel && text.get(1..).and_then(|text| text.split(|byte| *byte == b'\n').next()) == Some(CLONED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_says_so_and_others_do_not() {
        // As 6.12 and 7.3 wrote it.
        let genuine = b"5,713,48211034,-;random: crng reseeded due to virtual machine fork\n";
        assert!(says_cloned(genuine));
        assert!(says_cloned(b"5,713,48211034,-,caller=T9;random: crng reseeded due to virtual machine fork\n SUBSYSTEM=acpi\n"));
        for other in [
            &b""[..],
            b";",
            b"5,713,48211034,-",
            // A process wrote it: facility 1, user.
            b"13,713,48211034,-;random: crng reseeded due to virtual machine fork\n",
            b"9,713,48211034,-;random: crng reseeded due to virtual machine fork\n",
            b"8,713,48211034,-;random: crng reseeded due to virtual machine fork\n",
            b"5,713,48211034,-;random: crng reseeded on system resumption\n",
            b"5,713,48211034,-;x random: crng reseeded due to virtual machine fork\n",
            b"5,713,48211034,-;random: crng reseeded due to virtual machine fork x\n",
            b"5,713,48211034,-;x\n random: crng reseeded due to virtual machine fork\n",
            b"random: crng reseeded due to virtual machine fork\n",
        ] {
            assert!(!says_cloned(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_log_is_read_from_its_end_where_it_may_be_opened() {
        match KernelLog::open() {
            // Others may write into it meanwhile; nobody clones this machine.
            Ok(log) => assert!(matches!(read(&log.into_fd()).unwrap(), None | Some(Notice::Nothing))),
            Err(error) => assert!(fs::File::open(PATH).is_err(), "{error}"),
        }
    }
}
