//! A reader of `/sys/kernel/btf/vmlinux`: just enough to find the byte offset of a field and the
//! place of a per-CPU variable. Rust has no CO-RE, so this replaces it.
//!
//! Format: include/uapi/linux/btf.h, Documentation/bpf/btf.rst. Header 24 bytes, then type records
//! of 12 bytes each followed by kind-specific data, then strings.

use std::{collections::HashMap, fs, io, path::Path};

/// Where the kernel offers its own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why BTF could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read {VMLINUX}: {0} (the kernel needs CONFIG_DEBUG_INFO_BTF=y)")]
    Read(#[from] io::Error),
    /// The bytes are not BTF.
    #[error("{VMLINUX} is malformed: {0}")]
    Malformed(&'static str),
    /// A field the programs cannot do without.
    #[error("this kernel has no field {0}")]
    NoField(String),
}

/// Kinds (btf.h).
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;
/// Kinds that only point on: typedef, volatile, const, restrict, type tag.
const WRAPPERS: [u32; 5] = [8, 9, 10, 11, 18];

/// The kernel's types, indexed by name.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Offset of each type record in `data`; index 0 is `void`.
    types: Vec<usize>,
    strings: usize,
    structs: HashMap<Vec<u8>, usize>,
    /// Offset in the per-CPU section by variable name.
    per_cpu: HashMap<Vec<u8>, u32>,
    names: HashMap<Vec<u8>, u32>,
}

/// A field's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// In bits from the start of the outermost struct.
    pub bit_offset: u32,
    /// In bits, 0 for a whole field.
    pub bits: u32,
}

impl Field {
    /// Byte offset.
    pub fn byte(self) -> u32 {
        self.bit_offset / 8
    }

    /// Mask of a one-bit field in its byte.
    pub fn mask(self) -> u32 {
        1 << (self.bit_offset % 8)
    }
}

impl Btf {
    /// Reads the running kernel's types.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(VMLINUX))
    }

    /// Reads types from a file.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        Self::parse(fs::read(path)?)
    }

    /// Parses raw BTF.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| {
            data.get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_ne_bytes)
                .ok_or(BtfError::Malformed("ends early"))
        };
        if word(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Malformed("bad magic"));
        }
        let header = word(4)? as usize;
        let types_at = header + word(8)? as usize;
        let types_end = types_at + word(12)? as usize;
        let strings = header + word(16)? as usize;
        let mut btf = Self {
            types: vec![0],
            strings,
            structs: HashMap::new(),
            per_cpu: HashMap::new(),
            names: HashMap::new(),
            data: Vec::new(),
        };
        let mut at = types_at;
        let mut sections = Vec::new();
        while at < types_end {
            let info = word(at + 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let name = name_in(&data, strings, word(at)?);
            let id = btf.types.len() as u32;
            if !name.is_empty() {
                btf.names.entry(name.to_vec()).or_insert(id);
                if (kind == STRUCT || kind == UNION) && count > 0 {
                    btf.structs.entry(name.to_vec()).or_insert(btf.types.len());
                }
            }
            if kind == DATASEC && name == b".data..percpu" {
                sections.push((at + 12, count));
            }
            btf.types.push(at);
            at += 12
                + match kind {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
                    ENUM | FUNC_PROTO => 8 * count,
                    _ => 0,
                };
        }
        for (start, count) in sections {
            for i in 0..count {
                let variable = word(start + 12 * i)? as usize;
                let offset = word(start + 12 * i + 4)?;
                if let Some(&type_at) = btf.types.get(variable) {
                    let name = name_in(&data, strings, word(type_at)?).to_vec();
                    btf.per_cpu.insert(name, offset);
                }
            }
        }
        btf.data = data;
        Ok(btf)
    }

    /// Whether any type has this name (functions and typedefs included).
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name.as_bytes())
    }

    /// Offset of a per-CPU variable in its section.
    pub fn per_cpu(&self, name: &str) -> Option<u32> {
        self.per_cpu.get(name.as_bytes()).copied()
    }

    /// The place of `path` (fields joined by dots, through embedded and anonymous structs) in the
    /// struct `name`.
    pub fn field(&self, name: &str, path: &str) -> Result<Field, BtfError> {
        let missing = || BtfError::NoField(format!("{name}.{path}"));
        let mut id = *self.structs.get(name.as_bytes()).ok_or_else(missing)?;
        let mut field = Field { bit_offset: 0, bits: 0 };
        for part in path.split('.') {
            let (found, next) = self.member(id, part.as_bytes(), 0).ok_or_else(missing)?;
            field = Field { bit_offset: field.bit_offset + found.bit_offset, bits: found.bits };
            id = self.unwrap(next);
        }
        Ok(field)
    }

    fn word(&self, at: usize) -> u32 {
        self.data.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    fn kind(&self, id: usize) -> u32 {
        self.types.get(id).map_or(0, |&at| (self.word(at + 4) >> 24) & 0x1f)
    }

    /// Follows typedefs and qualifiers to the type itself.
    fn unwrap(&self, mut id: usize) -> usize {
        for _ in 0..32 {
            if !WRAPPERS.contains(&self.kind(id)) {
                break;
            }
            id = self.types.get(id).map_or(0, |&at| self.word(at + 8) as usize);
        }
        id
    }

    /// A member of a struct or of an anonymous struct or union in it; with its type.
    fn member(&self, id: usize, name: &[u8], depth: u32) -> Option<(Field, usize)> {
        let at = *self.types.get(id)?;
        let info = self.word(at + 4);
        if depth > 16 || !matches!((info >> 24) & 0x1f, STRUCT | UNION) {
            return None;
        }
        let has_bit_fields = info >> 31 != 0;
        for i in 0..(info & 0xffff) as usize {
            let member = at + 12 + 12 * i;
            let (name_at, type_id, raw) =
                (self.word(member), self.word(member + 4) as usize, self.word(member + 8));
            let (bit_offset, bits) =
                if has_bit_fields { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            let member_name = name_in(&self.data, self.strings, name_at);
            if member_name == name {
                return Some((Field { bit_offset, bits }, type_id));
            }
            if member_name.is_empty()
                && let Some((inner, inner_type)) =
                    self.member(self.unwrap(type_id), name, depth + 1)
            {
                let bit_offset = bit_offset + inner.bit_offset;
                return Some((Field { bit_offset, bits: inner.bits }, inner_type));
            }
        }
        None
    }
}

fn name_in(data: &[u8], strings: usize, offset: u32) -> &[u8] {
    let start = strings.saturating_add(offset as usize);
    let rest = data.get(start..).unwrap_or(&[]);
    let end = rest.iter().position(|&b| b == 0).unwrap_or(0);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_fields_of_the_running_kernel() {
        let Ok(btf) = Btf::of_kernel() else {
            eprintln!("skipped: no {VMLINUX}");
            return;
        };
        // Facts that hold on every kernel: list_head is two pointers, an i_mode follows nothing.
        assert_eq!(btf.field("list_head", "next").unwrap().byte(), 0);
        assert_eq!(btf.field("list_head", "prev").unwrap().byte(), 8);
        let pid = btf.field("task_struct", "pid").unwrap().byte();
        assert_eq!(btf.field("task_struct", "tgid").unwrap().byte(), pid + 4);
        let iowait = btf.field("task_struct", "in_iowait").unwrap();
        assert_eq!(iowait.bits, 1);
        let nested = btf.field("task_struct", "se.sum_exec_runtime").unwrap().byte();
        let se = btf.field("task_struct", "se").unwrap().byte();
        assert!(nested > se && nested < se + 1024);
        assert!(btf.field("task_struct", "no_such_field").is_err());
        assert!(btf.has("btf_trace_sched_switch"));
    }

    #[test]
    fn garbage_is_an_error_or_empty_never_a_panic() {
        assert!(Btf::parse(Vec::new()).is_err());
        assert!(Btf::parse(vec![0; 64]).is_err());
        let mut header = vec![0u8; 24];
        header[..2].copy_from_slice(&0xeb9fu16.to_ne_bytes());
        header[4] = 24;
        header[12] = 200; // types beyond the end
        assert!(Btf::parse(header).is_err());
    }
}
