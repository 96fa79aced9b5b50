namespace Bunraku.Platform;

/// <summary>A part of <see cref="ExecutableMemory"/> that is filled from its beginning. Not thread-safe.</summary>
/// <remarks>Invariant: its first <see cref="Used"/> bytes hold finished code, and parts of one memory do not overlap.</remarks>
public sealed unsafe class ExecutablePart
{
    private readonly ExecutableMemory _memory;
    private readonly ulong _start, _length, _lead;

    /// <param name="memory">What it is a part of.</param>
    /// <param name="start">Its first byte's offset there, a multiple of 16.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="lead">So many bytes in front of what shall be aligned each function begins with.</param>
    /// <exception cref="ArgumentOutOfRangeException">The part does not lie inside.</exception>
    public ExecutablePart(ExecutableMemory memory, ulong start, ulong length, ulong lead = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, memory.Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, memory.Length - start);
        (_memory, _start, _length, _lead) = (memory, start, length, lead);
    }

    /// <summary>Bytes already taken.</summary>
    public ulong Used { get; private set; }

    /// <summary>Bytes that are left.</summary>
    public ulong Free => _length - Used;

    /// <summary>Where the next function will be callable; 16-byte aligned behind its lead. Position-dependent code is assembled for this address.</summary>
    public byte* Next => _memory.Code + _start + Used;

    /// <summary>Copies <paramref name="code"/> into the part and returns its callable address, or null when it no longer fits.</summary>
    public void* Append(ReadOnlySpan<byte> code)
    {
        if ((ulong)code.Length > Free) return null;
        byte* result = Next;
        _memory.Write(_start + Used, code);
        Used = Math.Min(_length, ((Used + (ulong)code.Length + _lead + 15) & ~15ul) - _lead);
        return result;
    }

    /// <summary>Replaces bytes of finished code. The caller guarantees that no thread runs these bytes now.</summary>
    /// <exception cref="ArgumentOutOfRangeException">They do not all lie in code that was appended.</exception>
    public void Patch(void* code, ReadOnlySpan<byte> bytes)
    {
        ulong offset = (ulong)((byte*)code - (_memory.Code + _start));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Used, nameof(code));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset + (ulong)bytes.Length, Used, nameof(code));
        _memory.Write(_start + offset, bytes);
    }

    /// <summary>Forgets all code behind the first <paramref name="used"/> bytes. The caller guarantees that nothing runs there or will jump there.</summary>
    public void Rewind(ulong used) => Used = Math.Min(Used, used);
}
