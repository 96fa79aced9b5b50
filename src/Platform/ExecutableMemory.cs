using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A fixed-size arena for emitted host code. The same bytes are mapped twice: once writable, once executable, so that no page is ever writable and executable
/// at the same address. They are shared anonymous memory and no memfd, since Linux's perf looks for the names of code only where there is no file. Not
/// thread-safe.
/// </summary>
public sealed unsafe class ExecutableMemory : IDisposable
{
    private HugePages.Mapping _writable, _executable;
    private readonly ExecutablePart _whole;
    /// <summary>True for each huge page that was asked for, of those that are wanted.</summary>
    private readonly bool[] _enlarged;

    /// <summary>Maps an arena of <paramref name="length"/> bytes (rounded up to 4 KiB).</summary>
    /// <param name="length">Bytes.</param>
    /// <param name="hugeBytes">
    /// So many bytes at the beginning, rounded down to 2 MiB, lie in huge pages where the host has them: several MiB of code that runs would miss the host's
    /// instruction TLB all the time otherwise.
    /// </param>
    /// <exception cref="Win32Exception">The host forbids executable mappings or has no memory.</exception>
    public ExecutableMemory(ulong length, ulong hugeBytes = 0)
    {
        Length = (length + 0xFFF) & ~0xFFFul;
        _enlarged = new bool[hugeBytes >> HugePages.Shift];
        try
        {
            _writable = HugePages.Map(Length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared | Libc.MapAnonymous | Libc.MapNoReserve, -1);
            _executable = HugePages.MapAgain(_writable.First, Length, Libc.ProtRead | Libc.ProtExec);
        }
        catch (Win32Exception)
        {
            Dispose();
            throw;
        }
        _whole = new ExecutablePart(this, 0, Length);
    }

    /// <summary>Gives back what nobody gave back.</summary>
    ~ExecutableMemory() => Release();

    /// <summary>The executable view's first byte; null after disposal.</summary>
    public byte* Code => (byte*)_executable.First;

    private byte* Writable => (byte*)_writable.First;

    /// <summary>Capacity in bytes.</summary>
    public ulong Length { get; }

    /// <summary>Appends code; all of the memory is one part then. Not for a memory that is divided into parts (<see cref="ExecutablePart"/>).</summary>
    /// <returns>Its callable address, 16-byte aligned, or null when it no longer fits.</returns>
    public void* Append(ReadOnlySpan<byte> code) => _whole.Append(code);

    /// <summary>Forgets all code that was appended. The caller guarantees that nothing runs in or will jump into the arena.</summary>
    public void Clear() => _whole.Rewind(0);

    /// <summary>Puts code at an offset. The caller guarantees that no thread runs these bytes now.</summary>
    internal void Write(ulong offset, ReadOnlySpan<byte> code)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)code.Length, Length - offset);
        if (code.Length > 0)
        {
            Enlarge(offset);
            Enlarge(offset + (ulong)code.Length - 1);
        }
        code.CopyTo(new Span<byte>(Writable + offset, code.Length));
    }

    /// <summary>Before anything lies in the 2 MiB around <paramref name="offset"/> it costs least to make them a huge page.</summary>
    private void Enlarge(ulong offset)
    {
        if (offset >> HugePages.Shift >= (ulong)_enlarged.Length) return;
        ref bool enlarged = ref _enlarged[offset >> HugePages.Shift];
        if (enlarged) return;
        enlarged = true;
        byte* page = Writable + (offset & ~(HugePages.Size - 1));
        *page = 0; // only what has a page can be made a larger one
        HugePages.Collapse(page);
    }

    /// <summary>Gives back what it has. Idempotent.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        HugePages.Unmap(ref _writable);
        HugePages.Unmap(ref _executable);
    }
}
