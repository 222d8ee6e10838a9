//! boot story
mod kernel;
mod profile;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let mut l = kernel::load::load(&Default::default())?;
    kernel::load::attach_timer(&mut l, 99)?;
    println!("{:?} {:?} exit {} crumb {}", t.elapsed(), l.clock, l.has_exit_tp, l.has_breadcrumb);
    for (n, p) in l.ebpf.programs() { println!("{n} {:?}", p.info().map(|i| i.verified_instruction_count())); }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut c = std::collections::HashMap::<(usize,u32), u32>::new();
    for (i, r) in l.rings.iter_mut().enumerate() { while let Some(x) = r.next() { let k = u32::from_ne_bytes(x[..4].try_into()?); *c.entry((i,k)).or_default() += 1; } }
    println!("{c:?}");
    let p: aya::maps::PerCpuArray<_, u64> = l.ebpf.map("COUNTERS").unwrap().try_into()?;
    for k in agent_ebpf::wire::Counter::ALL { let v: u64 = p.get(&(*k as u32), 0)?.iter().sum(); println!("{} {v}", k.key()); }
    Ok(())
}
