namespace Bunraku.Engines;

/// <summary>Knows what a guest's memory should hold, and looks at it piece by piece. Thread-safe.</summary>
public interface IContentCheck
{
    /// <summary>Looks at a piece that is about to be used. False: it is not what it should be. That is told elsewhere, and ends the VM.</summary>
    /// <param name="offset">In the backing memory.</param>
    /// <param name="length">Bytes; all inside.</param>
    bool IsGood(ulong offset, ulong length);

    /// <summary>Looks at all that is left. False: something is not what it should be.</summary>
    bool Complete();
}
