using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>Native memory for what belongs to translations, given up as a whole together with their code. One thread.</summary>
/// <remarks>Invariant: everything handed out lies inside the allocation, zeroed.</remarks>
internal sealed unsafe class TranslationArena(int length) : IDisposable
{
    private byte* _memory = (byte*)NativeMemory.Alloc((nuint)length);
    private int _used;

    ~TranslationArena() => Release();

    /// <summary>Bytes that were handed out, and how many there can be.</summary>
    public (ulong Used, ulong Size) Bytes => ((ulong)_used, (ulong)length);

    public bool HasRoom(int bytes) => _used + bytes <= length;

    /// <summary><paramref name="count"/> zeroed elements; the caller has asked for room.</summary>
    public T* Add<T>(int count) where T : unmanaged
    {
        var result = (T*)(_memory + _used);
        int bytes = (count * sizeof(T) + 7) & ~7;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytes, length - _used, nameof(count));
        new Span<byte>(result, bytes).Clear();
        _used += bytes;
        return result;
    }

    /// <summary>Takes back the last <paramref name="count"/> elements of what was added last.</summary>
    public void GiveBack<T>(int count) where T : unmanaged => _used -= (count * sizeof(T)) & ~7;

    public void Clear() => _used = 0;

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        NativeMemory.Free(_memory);
        _memory = null;
    }
}
