using System.Security.Cryptography;
using Bunraku.Machine.Board;
using Bunraku.Machine.Ethernet;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Net;
using Bunraku.Network;

namespace Bunraku.Sessions;

/// <summary>The network cards of one VM and what is at the other ends of their cables, from before its start until it is disposed of.</summary>
internal sealed class GuestNetworks : IDisposable
{
    private const int MostQueues = 8;

    /// <summary>
    /// The card's slot is in the name that a guest gives it (enp0s3), so it goes by the card's number alone, not by what else is on the board; behind the
    /// display, which a machine has or not. As many have theirs as leave room for other devices.
    /// </summary>
    private const int FirstSlot = 3, MostSlots = 16;

    private readonly List<INetworkBackend> _backends = [];
    private readonly List<INetworkCard> _cards = [];
    private readonly List<IBoardPart> _parts = [];

    /// <exception cref="CannotStartException">A network cannot be had.</exception>
    public GuestNetworks(VmOptions options)
    {
        try
        {
            foreach (VmNetwork network in options.Networks)
            {
                INetworkBackend backend = network.Open();
                _backends.Add(backend);
                byte[] mac = network.Mac?.GetAddressBytes() ?? [0x52, 0x54, 0x00, .. RandomNumberGenerator.GetBytes(3)];
                Add(network, backend, $"net{_cards.Count}", mac, Math.Min(options.Cpus, MostQueues));
            }
        }
        catch (NetworkException e)
        {
            Dispose();
            throw new CannotStartException(e.Message, e);
        }
    }

    private void Add(VmNetwork network, INetworkBackend backend, string id, byte[] mac, int queues)
    {
        int? slot = _cards.Count < MostSlots ? FirstSlot + _cards.Count : null;
        if (network.Model == NetworkModel.E1000)
        {
            var intel = new E1000(id, backend, mac);
            _cards.Add(intel);
            _parts.Add(new E1000Part(intel, slot));
            return;
        }
        var card = new NetworkCard(id, backend, mac, network.Queues ?? queues);
        _cards.Add(card);
        _parts.Add(new VirtioPart(card, slot));
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts => _parts;

    /// <summary>What a copy of the VM has in their place.</summary>
    public IReadOnlyList<VmNetwork> OfCopy(IReadOnlyList<VmNetwork> networks) => [.. networks.Zip(_backends, (network, backend) => network.OfCopy(backend))];

    /// <summary>By their numbers.</summary>
    public IReadOnlyList<INetworkCard> Cards => _cards;

    /// <summary>Behind the machine's end.</summary>
    public void Dispose()
    {
        foreach (INetworkBackend backend in _backends) backend.Dispose();
    }
}
