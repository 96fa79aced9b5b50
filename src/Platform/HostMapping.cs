namespace Bunraku.Platform;

/// <summary>What this process has mapped for one owner, who gives it back: at disposal, or when nobody knows it any more.</summary>
/// <remarks>Invariant: what <see cref="Own(void*, ulong)"/> was told belongs to this object until <see cref="Dispose"/>.</remarks>
public abstract unsafe class HostMapping : IDisposable
{
    private void* _start;
    private ulong _length;

    /// <summary>Gives back what nobody gave back.</summary>
    ~HostMapping() => Release();

    /// <summary>First byte; null after disposal.</summary>
    public byte* Pointer { get; private set; }

    /// <summary>
    /// Takes over the mapping of <paramref name="length"/> bytes at <paramref name="start"/>, in which <paramref name="first"/> is the first that is of use.
    /// </summary>
    private protected void Own(void* start, ulong length, byte* first)
    {
        _start = start;
        _length = length;
        Pointer = first;
    }

    private protected void Own(void* start, ulong length) => Own(start, length, (byte*)start);

    /// <summary>Gives back what it has. Idempotent.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    /// <summary>Gives everything back; called again it does nothing.</summary>
    private protected virtual void Release()
    {
        if (_start != null) _ = Libc.Munmap(_start, (nuint)_length);
        _start = null;
        Pointer = null;
    }
}
