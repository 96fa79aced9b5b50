namespace Bunraku.Machine.Ethernet;

/// <summary>A network card, whichever it is.</summary>
public interface INetworkCard
{
    /// <summary>Plugs the cable in or out. Any thread.</summary>
    void SetLink(bool up);

    /// <summary>Tells the guest to look at its cable again: a restored one may have another cable than it knows of. Any thread.</summary>
    void TellLink();
}
