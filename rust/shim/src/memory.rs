//! Giving memory back once things are quiet.

/// Returns free heap pages, and unmaps the program's code and constants.
///
/// A shim does nothing almost all of its life, but what it touched on the way there stays mapped:
/// mostly code that ran once. Unmapped, its pages are the page cache's alone (shared by all shims,
/// reclaimable); what is needed again is faulted in from there, some microseconds for an operation.
pub fn trim() {
    // SAFETY: gives free heap pages back to the kernel; touches no live allocation.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the callback matches the expected signature and keeps none of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(drop_read_only), std::ptr::null_mut()) };
}

/// Drops the pages of one loaded object's read-only segments.
///
/// Only segments that were never writable qualify: a page that holds relocations is private to this
/// process, and dropping it would lose them. Those are in segments with the write flag, even where
/// the loader takes the permission away afterwards.
unsafe extern "C" fn drop_read_only(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes a valid description whose headers stay loaded.
    let (base, headers) = unsafe {
        let object = &*object;
        if object.dlpi_phdr.is_null() {
            return 0;
        }
        let count = usize::from(object.dlpi_phnum);
        (
            object.dlpi_addr as usize,
            std::slice::from_raw_parts(object.dlpi_phdr, count),
        )
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let page = rustix::param::page_size();
        let start = base + header.p_vaddr as usize;
        // Inwards to whole pages, so that no neighbour is touched.
        let (first, end) = (
            start.next_multiple_of(page),
            (start + header.p_memsz as usize) / page * page,
        );
        if first < end {
            // SAFETY: a private read-only mapping of a file: dropped pages come back unchanged.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on() {
        let text = format!("{}", 40 + 2);
        super::trim();
        assert_eq!(text, "42");
        assert!(std::env::current_dir().is_ok());
        super::trim();
    }
}
