namespace Bunraku.Fixtures;

/// <summary>An interrupt controller that has these vectors to give, one after the other, and counts how often it was asked. Null: one went away.</summary>
internal sealed class OfferedInterrupts(params byte?[] vectors) : IInterruptAcknowledge
{
    public int Asked { get; private set; }

    public byte? Acknowledge(out bool more)
    {
        byte? vector = Asked < vectors.Length ? vectors[Asked] : null;
        Asked++;
        more = Asked < vectors.Length;
        return vector;
    }

    /// <summary>How often the processor has ended one itself.</summary>
    public int Ended { get; private set; }

    public void EndOfInterrupt(out bool more)
    {
        Ended++;
        more = Asked < vectors.Length;
    }
}
