using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Input;

/// <summary>What a person does with keyboard and pointer of a machine. Any thread; never waits.</summary>
public sealed class UserInput
{
    private readonly I8042 _controller;
    private readonly Tablet? _tablet;
    private readonly Lock _lock = new();
    private int _x, _y; // where the mouse is thought to be
    private byte _buttons;

    internal UserInput(I8042 controller, Tablet? tablet) => (_controller, _tablet) = (controller, tablet);

    /// <summary>A key goes down or up.</summary>
    /// <param name="scanCodes">Its sequence in scan code set 2.</param>
    /// <returns>False: the guest has not read what was typed before, and this is lost; it can be tried again.</returns>
    public bool TryType(ReadOnlySpan<byte> scanCodes) => _controller.Type(scanCodes);

    /// <summary>
    /// The pointer is somewhere on the screen: the tablet tells where, if the guest has a driver for it, and the mouse how it came there, if not.
    /// </summary>
    /// <param name="x">0 to <paramref name="width"/> - 1.</param>
    /// <param name="y">0 to <paramref name="height"/> - 1.</param>
    /// <param name="width">Pixels of the screen.</param>
    /// <param name="height">Lines of the screen.</param>
    /// <param name="buttons">Bit 0 the left one, bit 1 the right one, bit 2 the middle one.</param>
    /// <param name="wheel">By how many notches the wheel was turned away from the user.</param>
    public void Point(int x, int y, int width, int height, byte buttons, int wheel)
    {
        if (_tablet is { IsUsed: true } tablet)
        {
            tablet.Point(Scale(x, width), Scale(y, height), buttons, wheel);
            return;
        }
        lock (_lock)
        {
            if ((x, y, buttons) == (_x, _y, _buttons)) return;
            if (_controller.MoveMouse(x - _x, _y - y, buttons)) (_x, _y, _buttons) = (x, y, buttons);
        }
    }

    private static int Scale(int value, int size) => size <= 1 ? 0 : (int)((long)Math.Clamp(value, 0, size - 1) * Tablet.MostPosition / (size - 1));
}
