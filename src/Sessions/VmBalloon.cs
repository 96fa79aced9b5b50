using Bunraku.Machine.Virtio.Balloons;

namespace Bunraku.Sessions;

/// <summary>A device by which the guest gives memory back: see <see cref="Balloon"/>.</summary>
public sealed record VmBalloon
{
    /// <summary>The guest may take memory back by itself before it kills programs.</summary>
    public bool DeflateOnOom { get; init; } = true;

    /// <summary>The guest tells of pages that are free, all the time.</summary>
    public bool Reporting { get; init; } = true;
}
