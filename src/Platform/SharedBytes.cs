using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Memory behind a descriptor that another process can be started from, and can map.</summary>
/// <remarks>Invariant: <see cref="HostMapping.Pointer"/> addresses exactly <see cref="Length"/> bytes until <see cref="HostMapping.Dispose"/>.</remarks>
public sealed unsafe class SharedBytes : HostMapping
{
    private const uint Executable = 0x10; // MFD_EXEC: hosts before 6.3 do not know it, and do without

    /// <param name="length">Bytes, a multiple of 4096.</param>
    /// <exception cref="Win32Exception">The host refuses.</exception>
    public SharedBytes(ulong length)
    {
        Length = length;
        Descriptor = Libc.MemfdCreate("bunraku-direct", Libc.MemfdCloseOnExec | Executable);
        if (Descriptor < 0) Descriptor = Libc.MemfdCreate("bunraku-direct", Libc.MemfdCloseOnExec);
        void* memory = Libc.MapFailed;
        if (Descriptor >= 0 && Libc.Ftruncate(Descriptor, (long)length) == 0)
            memory = Libc.Mmap(null, (nuint)length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared, Descriptor, 0);
        if (memory == Libc.MapFailed)
        {
            var error = new Win32Exception(Marshal.GetLastPInvokeError());
            Dispose();
            throw error;
        }
        Own(memory, length);
    }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    internal int Descriptor { get; private set; }

    private protected override void Release()
    {
        base.Release();
        if (Descriptor >= 0) _ = Libc.Close(Descriptor);
        Descriptor = -1;
    }
}
