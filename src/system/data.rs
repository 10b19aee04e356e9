//! The data partition, encrypted under a key that lies on identity: made at the first boot, opened at each, and made
//! anew after a reset.
//!
//! `data-ready` on identity is written when all of it is made, and removed first when it is to go. Without it
//! everything is begun anew from the start, so a power cut at any moment costs nothing; with it nothing is ever
//! formatted. A worn card may lose it, so data that its key opens and that was mounted before has it again.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::identity::Identity;
use super::run::{run, run_with};
use super::{Error, Places, partition, provision};
use crate::sys::durable;

/// Bytes of the key.
const KEY: usize = 32;
/// What a LUKS2 header takes with its copy and its keys, in bytes.
const HEADER: usize = 16 << 20;
/// The name of the opened device below `/dev/mapper`.
const MAPPED: &str = "data";
/// The files on identity.
const KEY_FILE: &str = "data.key";
/// The key as only this machine's TPM opens it, where there is one.
const SEALED: &str = "data.key.tpm";
/// What it is sealed as.
const SEALED_AS: &str = "--name=edge-data";
const READY: &str = "data-ready";
const IS_READY: &[u8] = b"luks2 ext4\n";
/// The TPM, where there is one, and how long it may take to appear where the key is sealed to it.
const TPM: &str = "/dev/tpmrm0";
const PATIENCE: Duration = Duration::from_secs(10);
/// A reset was asked for.
pub(super) const RESET: &str = "factory-reset";

/// What came of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was there.
    Known,
    /// It was made, as at a first boot.
    Made,
    /// What was there is gone by a reset, and it was made anew.
    Reset,
}

/// Opens the data partition as `/dev/mapper/data`, after a reset if one was asked for; and a line, where there is one
/// to say.
///
/// # Errors
/// [`Error::Data`] where it was made once and cannot be opened: it is left as it is, unless a stick asks for a reset.
pub fn open(places: &Places) -> Result<(Opened, Option<String>), Error> {
    places.booted()?;
    let device = partition::device(places, "data")?;
    let identity = Identity::open(places)?;
    let here = |name: &str| places.identity().join(name).exists();
    let mut reset = here(RESET);
    if reset {
        wipe(places, &identity, &device)?;
    }
    if here(READY) {
        let opened = || known_key(places).and_then(|key| unlock(&key, &device));
        let Err(error) = (if is_open(places) { Ok(()) } else { opened() }) else {
            return Ok((Opened::Known, bare_key(places)));
        };
        // Nobody can log in without data: a stick is what its owner has. Data that opens is not given up for one.
        if !provision::stick_asks_reset(places, RESET) {
            return Err(Error::Data(error.to_string()));
        }
        identity.write(RESET, b"asked for by a stick\n", 0o600)?;
        wipe(places, &identity, &device)?;
        reset = true;
    }
    // A chip that does not answer says nothing of the data.
    if here(SEALED)
        && !is_open(places)
        && let Err(error) = known_key(places)
        && !provision::stick_asks_reset(places, RESET)
    {
        return Err(Error::Data(error.to_string()));
    }
    if !reset && was_used(places, &device) {
        identity.write(READY, IS_READY, 0o600)?;
        let line = format!("identity had lost `{READY}`: the data is there, and is opened as it was");
        return Ok((Opened::Known, Some(line)));
    }
    let line = make(places, &identity, &device)?;
    Ok((if reset { Opened::Reset } else { Opened::Made }, line))
}

/// Asks the next boot to give the data up.
///
/// # Errors
/// Where identity cannot be written.
pub fn ask_reset(places: &Places) -> Result<(), Error> {
    places.booted()?;
    Identity::open(places)?.write(RESET, b"asked for by hand\n", 0o600)
}

/// Makes the data unreadable for good. Each step can be done again; the marker goes last.
fn wipe(places: &Places, identity: &Identity<'_>, device: &Path) -> Result<(), Error> {
    close(places)?;
    // First the key: with it gone, what the header keeps of it is of no use. The header goes too where the key's bytes cannot
    // be overwritten.
    let keys = [identity.remove(KEY_FILE), identity.remove(SEALED)];
    let path = device.display().to_string();
    if let Err(error) = run("cryptsetup", &["erase", "--batch-mode", &path]) {
        // A disk that was never made has no header; it is overwritten all the same.
        tracing::info!(%error, "no key slots were erased");
    }
    overwrite(device)?;
    for removed in keys {
        removed?;
    }
    identity.remove(READY)?;
    identity.remove(RESET)
}

/// Writes zeros over the header, to the medium.
fn overwrite(device: &Path) -> Result<(), Error> {
    let failed = |e| durable::named(e, "overwrite", device);
    let mut file = OpenOptions::new().write(true).open(device).map_err(failed)?;
    let zeros = vec![0; 1 << 20];
    let most = partition::size(device)?.min(HEADER as u64);
    let mut left = usize::try_from(most).unwrap_or(HEADER);
    while left > 0 {
        let piece = left.min(zeros.len());
        file.write_all(&zeros[..piece]).map_err(failed)?;
        left -= piece;
    }
    Ok(file.sync_all().map_err(failed)?)
}

fn make(places: &Places, identity: &Identity<'_>, device: &Path) -> Result<Option<String>, Error> {
    close(places)?;
    let size = partition::size(device)?;
    if size < 2 * HEADER as u64 {
        let why = format!("partition `data` has {size} bytes, too few to hold anything");
        return Err(Error::Unfit(format!("{why} hint: use a larger card")));
    }
    let mut key = [0; KEY];
    SystemRandom::new().fill(&mut key).map_err(|_| Error::Randomness)?;
    let line = keep_key(places, identity, &key)?;
    let path = device.display().to_string();
    let (cipher, bits) = cipher(&std::fs::read_to_string(places.at("/proc/cpuinfo")).unwrap_or_default());
    // The key is random: a slow derivation would cost time at each boot and add nothing.
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--cipher", cipher, "--key-size", bits];
    let more = ["--sector-size", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let words = [&format[..], &more, &["--label", "edge-data", "--key-file", "-", &path]].concat();
    run_with("cryptsetup", &words, &key)?;
    unlock(&key, device)?;
    let mapped = mapped(places);
    // What a card takes minutes for: to discard all of it, and to zero what the kernel zeroes later as well.
    let quick = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    run("mkfs.ext4", &["-q", "-F", "-L", "data", "-m", "1", "-E", quick, &mapped])?;
    OpenOptions::new()
        .write(true)
        .open(&mapped)
        .and_then(|file| file.sync_all())
        .map_err(|e| durable::named(e, "sync", Path::new(&mapped)))?;
    identity.write(READY, IS_READY, 0o600)?;
    Ok(line)
}

/// Keeps a new key on identity: sealed to the TPM where there is one, else as it is. A TPM that does not do it is told,
/// and does not keep the machine from starting.
fn keep_key(places: &Places, identity: &Identity<'_>, key: &[u8]) -> Result<Option<String>, Error> {
    let mut line = None;
    if places.at(TPM).exists() {
        match seal(key) {
            Ok(sealed) => {
                identity.write(SEALED, &sealed, 0o600)?;
                identity.remove(KEY_FILE)?;
                return Ok(None);
            }
            Err(error) => line = Some(format!("the key of the data is not sealed to the TPM: {error}")),
        }
    }
    identity.write(KEY_FILE, key, 0o600)?;
    identity.remove(SEALED)?;
    Ok(line)
}

/// A line where the key lies open on identity, and there is a TPM: it came later, or did not do it then.
fn bare_key(places: &Places) -> Option<String> {
    let is_bare = places.at(TPM).exists() && !places.identity().join(SEALED).exists();
    is_bare.then(|| {
        "the key of the data lies open on identity, and this machine has a TPM hint: `edge system reset` makes the data anew, with a key that is sealed to it".to_owned()
    })
}

/// Whether the key that is kept opens data which was mounted once: only after it was ready. It is open then.
fn was_used(places: &Places, device: &Path) -> bool {
    let opened = is_open(places) || {
        let done = known_key(places).and_then(|key| unlock(&key, device));
        done.inspect_err(|error| tracing::info!(%error, "no data is there")).is_ok()
    };
    opened
        && was_mounted(Path::new(&mapped(places))).unwrap_or_else(|error| {
            // What cannot be read is nothing to format either.
            tracing::warn!(%error, "whether data is there cannot be read");
            true
        })
}

/// Whether a device holds the file system that is made here, and it was mounted: a new one has neither time nor count.
fn was_mounted(mapped: &Path) -> std::io::Result<bool> {
    // As ext4's superblock has them: s_mtime, s_mnt_count, s_magic, s_volume_name.
    let mut block = [0; 1024];
    let mut file = File::open(mapped)?;
    file.seek(SeekFrom::Start(1024))?;
    file.read_exact(&mut block)?;
    let is_ours = block[0x38..0x3a] == [0x53, 0xef] && block[0x78..].starts_with(b"data\0");
    Ok(is_ours && (block[0x2c..0x30] != [0; 4] || block[0x34..0x36] != [0; 2]))
}

/// The key as this machine's TPM gives it back, which it was seen to do.
fn seal(key: &[u8]) -> Result<Vec<u8>, Error> {
    // To the chip and to no measurement of what boots, which each update changes: register 16 is for debugging, and
    // always zero. With none at all, systemd-creds makes what it then cannot read.
    let words = ["encrypt", "--with-key=tpm2", "--tpm2-pcrs=16", SEALED_AS, "-", "-"];
    let sealed = run_with("systemd-creds", &words, key)?;
    if unseal(&sealed)? == key {
        return Ok(sealed);
    }
    Err(Error::Unfit("it gives back another key".into()))
}

fn unseal(sealed: &[u8]) -> Result<Vec<u8>, Error> {
    run_with("systemd-creds", &["decrypt", SEALED_AS, "-", "-"], sealed)
}

/// The key that is kept.
fn known_key(places: &Places) -> Result<Vec<u8>, Error> {
    let path = |name: &str| places.identity().join(name);
    let read = |name: &str| std::fs::read(path(name)).map_err(|e| durable::named(e, "read", &path(name)));
    if path(SEALED).exists() {
        // Its driver may take longer than the disk's.
        let begun = Instant::now();
        while !places.at(TPM).exists() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
        }
        return unseal(&read(SEALED)?);
    }
    Ok(read(KEY_FILE)?)
}

/// AES where the processor has it, else a cipher that is quick without.
fn cipher(cpuinfo: &str) -> (&'static str, &'static str) {
    let has_aes = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags") || line.starts_with("Features"))
        .any(|line| line.split_ascii_whitespace().any(|word| word == "aes"));
    if has_aes { ("aes-xts-plain64", "512") } else { ("xchacha20,aes-adiantum-plain64", "256") }
}

fn unlock(key: &[u8], device: &Path) -> Result<(), Error> {
    let path = device.display().to_string();
    // Flash that is told what is free lives longer; that an outsider can tell how full the disk is harms nobody here.
    let words = ["open", "--type", "luks2", "--allow-discards", "--key-file", "-", &path, MAPPED];
    run_with("cryptsetup", &words, key).map(drop)
}

fn close(places: &Places) -> Result<(), Error> {
    if is_open(places) {
        run("cryptsetup", &["close", MAPPED])?;
    }
    Ok(())
}

fn is_open(places: &Places) -> bool {
    Path::new(&mapped(places)).exists()
}

fn mapped(places: &Places) -> String {
    places.at("/dev/mapper").join(MAPPED).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_only_where_the_processor_has_it() {
        for (cpuinfo, cipher_) in [
            ("processor : 0\nFeatures\t: fp asimd evtstrm aes pmull sha1\n", "aes-xts-plain64"),
            ("flags\t\t: fpu sse2 aes avx\n", "aes-xts-plain64"),
            ("processor : 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n", "xchacha20,aes-adiantum-plain64"),
            ("model name : aes\n", "xchacha20,aes-adiantum-plain64"),
            ("", "xchacha20,aes-adiantum-plain64"),
        ] {
            assert_eq!(cipher(cpuinfo).0, cipher_, "{cpuinfo}");
        }
    }
}
