using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Zero-filled anonymous memory behind a file descriptor (memfd), mapped readable and writable.
/// The descriptor lets another mapping of the same bytes exist.
/// </summary>
/// <remarks>
/// Invariant: <see cref="Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="Dispose"/>.
/// Pages take host memory only once touched.
/// </remarks>
public sealed unsafe class SharedMemory : IDisposable
{
    /// <summary>Maps <paramref name="length"/> bytes (rounded up to 4 KiB).</summary>
    /// <exception cref="Win32Exception">The host refuses: no address space, no memory.</exception>
    public SharedMemory(string name, ulong length)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        Descriptor = Libc.MemfdCreate(name, Libc.MemfdCloseOnExec);
        if (Descriptor < 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
        if (Libc.Ftruncate(Descriptor, (long)Length) != 0) throw Fail();
        void* address = Libc.Mmap(null, (nuint)Length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared | Libc.MapNoReserve, Descriptor, 0);
        if (address == Libc.MapFailed) throw Fail();
        Pointer = (byte*)address;

        Win32Exception Fail()
        {
            var error = new Win32Exception(Marshal.GetLastPInvokeError());
            _ = Libc.Close(Descriptor);
            Descriptor = -1;
            GC.SuppressFinalize(this);
            return error;
        }
    }

    ~SharedMemory() => Release();

    /// <summary>First byte; null after disposal.</summary>
    public byte* Pointer { get; private set; }

    /// <summary>Size in bytes, a multiple of 4096.</summary>
    public ulong Length { get; }

    /// <summary>The memfd; -1 after disposal.</summary>
    public int Descriptor { get; private set; }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (Pointer != null) _ = Libc.Munmap(Pointer, (nuint)Length);
        if (Descriptor >= 0) _ = Libc.Close(Descriptor);
        Pointer = null;
        Descriptor = -1;
    }
}
