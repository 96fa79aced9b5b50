using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Zero-filled anonymous memory behind a file descriptor (memfd), mapped readable and writable. The descriptor lets another mapping of the same bytes exist.
/// </summary>
/// <remarks>
/// Invariant: <see cref="HostMapping.Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="HostMapping.Dispose"/>.
/// Pages take host memory only once touched.
/// </remarks>
public sealed unsafe class SharedMemory : HostMapping
{
    /// <summary>Maps <paramref name="length"/> bytes (rounded up to 4 KiB).</summary>
    /// <exception cref="Win32Exception">The host refuses: no address space, no memory.</exception>
    public SharedMemory(string name, ulong length)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        Descriptor = Libc.MemfdCreate(name, Libc.MemfdCloseOnExec);
        if (Descriptor < 0 || Libc.Ftruncate(Descriptor, (long)Length) != 0) throw Failed();
        void* address = Libc.Mmap(null, (nuint)Length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared | Libc.MapNoReserve, Descriptor, 0);
        if (address == Libc.MapFailed) throw Failed();
        Own(address, Length);

        Win32Exception Failed()
        {
            var error = new Win32Exception(Marshal.GetLastPInvokeError());
            Dispose();
            return error;
        }
    }

    /// <summary>Size in bytes, a multiple of 4096.</summary>
    public ulong Length { get; }

    /// <summary>The memfd; -1 after disposal.</summary>
    public int Descriptor { get; private set; } = -1;

    private protected override void Release()
    {
        base.Release();
        if (Descriptor >= 0) _ = Libc.Close(Descriptor);
        Descriptor = -1;
    }
}
