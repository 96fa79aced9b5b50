using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A fixed-size arena for emitted host code. The same bytes are mapped twice: once writable, once executable, so that no page is ever writable and executable
/// at the same address. Append only; not thread-safe.
/// </summary>
/// <remarks>Invariant: [<see cref="Code"/>, <see cref="Code"/> + <see cref="Used"/>) holds finished code.</remarks>
public sealed unsafe class ExecutableMemory : IDisposable
{
    private readonly SharedMemory _writable;

    /// <summary>Maps an arena of <paramref name="length"/> bytes (rounded up to 4 KiB).</summary>
    /// <exception cref="Win32Exception">The host forbids executable mappings or has no memory.</exception>
    public ExecutableMemory(ulong length)
    {
        _writable = new SharedMemory("bunraku-code", length);
        void* code = Libc.Mmap(null, (nuint)_writable.Length, Libc.ProtRead | Libc.ProtExec, Libc.MapShared, _writable.Descriptor, 0);
        if (code == Libc.MapFailed)
        {
            int error = Marshal.GetLastPInvokeError();
            _writable.Dispose();
            GC.SuppressFinalize(this);
            throw new Win32Exception(error);
        }
        Code = (byte*)code;
    }

    /// <summary>Gives back what nobody gave back.</summary>
    ~ExecutableMemory() => Release();

    /// <summary>The executable view's first byte.</summary>
    public byte* Code { get; private set; }

    /// <summary>Capacity in bytes.</summary>
    public ulong Length => _writable.Length;

    /// <summary>Bytes already taken.</summary>
    public ulong Used { get; private set; }

    /// <summary>Where the next appended function will be callable; 16-byte aligned. Position-dependent code is assembled for this address.</summary>
    public byte* Next => Code + Used;

    /// <summary>Copies <paramref name="code"/> into the arena and returns its callable address, or null when it no longer fits.</summary>
    public void* Append(ReadOnlySpan<byte> code)
    {
        if ((ulong)code.Length > Length - Used) return null;
        code.CopyTo(new Span<byte>(_writable.Pointer + Used, code.Length));
        byte* result = Code + Used;
        Used = Math.Min(Length, (Used + (ulong)code.Length + 15) & ~15ul);
        return result;
    }

    /// <summary>Replaces bytes of finished code. The caller guarantees that no thread runs these bytes now.</summary>
    public void Patch(void* code, ReadOnlySpan<byte> bytes)
    {
        ulong offset = (ulong)((byte*)code - Code);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset + (ulong)bytes.Length, Used, nameof(code));
        bytes.CopyTo(new Span<byte>(_writable.Pointer + offset, bytes.Length));
    }

    /// <summary>Forgets all code. The caller guarantees that nothing runs in or will jump into the arena.</summary>
    public void Clear() => Rewind(0);

    /// <summary>Forgets all code behind the first <paramref name="used"/> bytes; see <see cref="Clear"/>.</summary>
    public void Rewind(ulong used) => Used = Math.Min(Used, used);

    /// <summary>Gives back what it has. Idempotent.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (Code != null) _ = Libc.Munmap(Code, (nuint)_writable.Length);
        Code = null;
        _writable?.Dispose();
    }
}
