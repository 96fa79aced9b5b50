using System.Globalization;

namespace Bunraku.Machine;

/// <summary>What a Linux guest's driver counted on one serial line: a line of /proc/tty/driver/serial (uart_line_info in Linux's serial_core.c).</summary>
/// <param name="Sent">Characters that the driver wrote to the transmitter, modulo 2^32.</param>
/// <param name="Received">Characters that the driver read, modulo 2^32.</param>
/// <param name="Damaged">Characters that came with an error, or that the UART or the terminal's buffer had no room for.</param>
public readonly record struct GuestLineCounters(uint Sent, uint Received, uint Damaged)
{
    /// <summary>Null when the text is no such line.</summary>
    public static GuestLineCounters? Parse(string text)
    {
        uint? sent = null, received = null;
        uint damaged = 0;
        foreach (string word in text.Split(' '))
        {
            // The kernel prints its 32-bit counters as signed numbers.
            if (word.Split(':') is not [var name, var number]
                || !int.TryParse(number, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value)) continue;
            switch (name)
            {
                case "tx":
                    sent = (uint)value;
                    break;
                case "rx":
                    received = (uint)value;
                    break;
                case "fe" or "pe" or "brk" or "oe" or "bo": // framing, parity, break, overrun of the UART, of the buffer
                    damaged += (uint)value;
                    break;
            }
        }
        return sent is { } s && received is { } r ? new(s, r, damaged) : null;
    }
}
