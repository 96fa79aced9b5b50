using System.ComponentModel;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Silicon;

/// <summary>
/// Runs batches of trials on the host's own processor, in this process. There is one at a time (fixed addresses, signal handlers);
/// <see cref="Run"/> is for one thread, which the instance provides itself.
/// </summary>
public sealed unsafe partial class HostSilicon : IDisposable
{
    private const int ProtNone = 0, ProtRead = 1, ProtWrite = 2, ProtExec = 4;
    private const int MapPrivate = 2, MapFixed = 0x10, MapAnonymous = 0x20, MapNoReserve = 0x4000, MapFixedNoReplace = 0x10_0000;

    private byte* _code;                     // writable view of the routine and the cases

    /// <summary>
    /// Why nothing can be compared on this host; null: it can. Its system must have Linux's segment for 32-bit code and give a process an LDT: kernels that run
    /// under a hypervisor without its hardware may have neither, and hand on other faults than the processor's.
    /// </summary>
    public static string? WhyNot()
    {
        // lar eax, edi; setz al; movzx eax, al; ret
        ReadOnlySpan<byte> code = [0x0F, 0x02, 0xC7, 0x0F, 0x94, 0xC0, 0x0F, 0xB6, 0xC0, 0xC3];
        void* page = Mmap(null, 4096, ProtRead | ProtWrite, MapPrivate | MapAnonymous, -1, 0);
        if (page == (void*)-1) throw new Win32Exception(Marshal.GetLastPInvokeError());
        try
        {
            code.CopyTo(new Span<byte>(page, code.Length));
            if (Mprotect(page, 4096, ProtRead | ProtExec) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
            SetLdt(Layout.Code16 >> 3, (uint)Layout.Cases, contents: 2);
            var isThere = (delegate* unmanaged<uint, int>)page;
            return isThere(Layout.Code32) == 0 ? "the host's system has no segment for 32-bit code"
                : isThere(Layout.Code16) == 0 ? "the host's system gives a process no LDT" : null;
        }
        catch (Win32Exception e)
        {
            return $"the host's system refuses it: {e.Message}";
        }
        finally
        {
            _ = Munmap(page, 4096);
        }
    }

    /// <exception cref="Win32Exception">The host refuses the fixed address range or the LDT entries.</exception>
    public HostSilicon()
    {
        Map(Layout.Base, Layout.Reserved, ProtNone, MapPrivate | MapAnonymous | MapNoReserve | MapFixedNoReplace, -1, 0);
        foreach ((ulong start, ulong size) in (ReadOnlySpan<(ulong, ulong)>)[(Layout.Slots, Layout.SlotsSize), (Layout.Data, Layout.DataSize),
            (Layout.Contexts, Layout.ContextsSize), (Layout.ReadOnly, Layout.ReadOnlySize)])
        {
            Map(start, size, ProtRead | ProtWrite, MapPrivate | MapAnonymous | MapFixed, -1, 0);
            new Span<byte>((void*)start, (int)size).Fill(0x5A); // present before the first access, so that error codes tell protection from absence
        }
        if (Mprotect((void*)Layout.ReadOnly, (nuint)Layout.ReadOnlySize, ProtRead) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());

        int fd = MemfdCreate("bunraku-silicon", 1);
        ulong codeSize = Layout.Cases + Layout.CasesSize - Layout.Routine;
        if (fd < 0 || Ftruncate(fd, (long)codeSize) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
        _code = (byte*)Mmap(null, (nuint)codeSize, ProtRead | ProtWrite, 1 /* MAP_SHARED */, fd, 0);
        Map(Layout.Routine, Layout.RoutineSize, ProtRead | ProtExec, 1 | MapFixed, fd, 0);
        Map(Layout.Cases, Layout.CasesSize, ProtRead | ProtExec, 1 | MapFixed, fd, (long)(Layout.Cases - Layout.Routine));
        _ = Close(fd);
        new Span<byte>(_code, (int)codeSize).Fill(0xCC);

        SetLdt(Layout.Code16 >> 3, (uint)Layout.Cases, contents: 2);
        SetLdt(Layout.Data16 >> 3, (uint)Layout.Data, contents: 0);
        *(ulong*)Slot.FlatSelector = Layout.Flat;
        *(ulong*)Slot.Data16Selector = Layout.Data16;
    }

    /// <summary>Runs the batch in place: contexts, data and code at their addresses in this process.</summary>
    internal void Run(RoutineCode routine, ReadOnlySpan<byte> cases, int trials)
    {
        routine.Bytes.CopyTo(new Span<byte>(_code, routine.Bytes.Length));
        cases.CopyTo(new Span<byte>(_code + (Layout.Cases - Layout.Routine), cases.Length));
        *(ulong*)Slot.Current = Layout.Contexts;
        *(ulong*)Slot.Count = (ulong)trials;
        *(ulong*)Slot.Mark = 0;
        *(ulong*)Slot.Exit = routine.HostExit;
        *(ulong*)Slot.InTest = 0;
        FaultSignals.Call((delegate* unmanaged<void>)routine.HostEntry, (void*)routine.SignalHandler);
    }

    public void Dispose()
    {
        _ = Munmap((void*)Layout.Base, (nuint)Layout.Reserved);
        _ = Munmap(_code, (nuint)(Layout.Cases + Layout.CasesSize - Layout.Routine));
        _code = null;
    }

    private static void Map(ulong address, ulong length, int protection, int flags, int fd, long offset)
    {
        void* result = Mmap((void*)address, (nuint)length, protection, flags, fd, offset);
        if (result != (void*)address)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), $"cannot map 0x{address:X} for the comparison with the host's processor");
    }

    private static void SetLdt(int entry, uint segmentBase, uint contents)
    {
        // struct user_desc: entry_number, base_addr, limit, then seg_32bit:1 contents:2 read_exec_only:1 limit_in_pages:1 seg_not_present:1 useable:1
        uint* descriptor = stackalloc uint[4] { (uint)entry, segmentBase, 0xFFFF, contents << 1 | 1 << 6 };
        if (Syscall(154 /* modify_ldt */, 1, (nint)descriptor, 16) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError(), "modify_ldt");
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* Mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int Munmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    private static partial int Mprotect(void* address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "memfd_create", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int MemfdCreate(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "ftruncate", SetLastError = true)]
    private static partial int Ftruncate(int fd, long length);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint Syscall(nint number, nint a, nint b, nint c);
}
