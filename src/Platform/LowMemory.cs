using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Zero-filled private memory below 2 GiB, which 32-bit host code reaches too. A prefix of it can be made executable; no page is ever
/// writable and executable at once. Not thread-safe.
/// </summary>
/// <remarks>Invariant: <see cref="HostMapping.Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="HostMapping.Dispose"/>.</remarks>
public sealed unsafe class LowMemory : HostMapping
{
    /// <param name="length">Bytes, rounded up to 4 KiB.</param>
    /// <exception cref="Win32Exception">The host has no such memory.</exception>
    public LowMemory(int length)
    {
        Length = (length + 0xFFF) & ~0xFFF;
        void* address = Libc.Mmap(null, (nuint)Length, Libc.ProtRead | Libc.ProtWrite, Libc.MapPrivate | Libc.MapAnonymous | Libc.Map32Bit, -1, 0);
        if (address == Libc.MapFailed) throw new Win32Exception(Marshal.GetLastPInvokeError());
        Own(address, (ulong)Length);
    }

    /// <summary>Size in bytes, a multiple of 4096.</summary>
    public int Length { get; }

    /// <summary>The first <paramref name="length"/> bytes (rounded up to 4 KiB) become executable and read-only, or writable again.</summary>
    /// <exception cref="Win32Exception">The host forbids executable memory.</exception>
    public void Protect(int length, bool executable)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        if (Libc.Mprotect(Pointer, (nuint)length, Libc.ProtRead | (executable ? Libc.ProtExec : Libc.ProtWrite)) != 0)
            throw new Win32Exception(Marshal.GetLastPInvokeError());
    }
}
