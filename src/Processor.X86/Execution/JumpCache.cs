namespace Bunraku.Processor.X86;

/// <summary>
/// The generations of the jump cache, which leads from linear addresses to decoded blocks. All entries are forgotten by beginning a new generation. Hits are in
/// <see cref="Flow"/>.
/// </summary>
internal sealed unsafe class JumpCache(Processor p)
{
    /// <summary>Linear pages from which code was entered since the generation began (a Bloom filter), so that INVLPG of data costs nothing.</summary>
    private readonly ulong[] _pages = new ulong[64];

    public void Forget()
    {
        ProcessorState* s = p.State;
        if (++s->JumpEpoch >> (64 - ModeKey.Bits - Tlb.ContextBits) != 0)
        {
            // After 2^31 generations old keys could match again.
            new Span<byte>(s->JumpBytes, ProcessorState.JumpSize * sizeof(JumpEntry)).Clear();
            s->JumpEpoch = 1;
        }
        Array.Clear(_pages);
    }

    /// <summary>An entry for code at this address was made.</summary>
    public void NotePage(ulong linear)
    {
        ulong hash = Hash(linear);
        _pages[(hash >> 6) & 63] |= 1ul << (int)(hash & 63);
    }

    /// <summary>There may be an entry for the page of this address.</summary>
    public bool MayHold(ulong linear)
    {
        ulong hash = Hash(linear);
        return (_pages[(hash >> 6) & 63] & (1ul << (int)(hash & 63))) != 0;
    }

    private static ulong Hash(ulong linear)
    {
        ulong page = linear >> 12;
        return page ^ (page >> 12);
    }
}
