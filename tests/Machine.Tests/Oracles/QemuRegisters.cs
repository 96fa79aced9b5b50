using System.Diagnostics;
using System.Globalization;
using Bunraku.Hypervisor;
using Bunraku.Testing;

namespace Bunraku.Machine.Tests;

/// <summary>
/// QEMU's devices without a processor, driven through its qtest protocol (docs/devel/testing/qtest.rst): the oracle for register behaviour that does not
/// depend on time. A program of accesses is first run on our devices, which gives the expected values, and then on QEMU's.
/// </summary>
internal sealed class QemuRegisters(PortBus ours)
{
    private readonly List<(string Command, uint? Expected, uint Mask)> _program = [];

    public void Out(ushort port, int value) => Out(port, 1, (byte)value);

    public void Out(ushort port, int size, uint value)
    {
        ours.Write(port, size, value);
        _program.Add(($"out{Suffix(size)} {port} {value}", null, 0));
    }

    /// <param name="mask">The bits that must agree.</param>
    public uint In(ushort port, int size = 1, uint mask = uint.MaxValue)
    {
        uint value = ours.Read(port, size);
        _program.Add(($"in{Suffix(size)} {port}", value, mask));
        return value;
    }

    /// <summary>Sets an unnamed input of one of QEMU's devices; the caller does the same to ours.</summary>
    public void SetInput(string device, int input, bool level) =>
        _program.Add(($"set_irq_in /machine/unattached/{device} unnamed-gpio-in {input} {(level ? 1 : 0)}", null, 0));

    /// <summary>Runs the program on QEMU; fails at the first value that differs.</summary>
    public void Compare()
    {
        ProcessStartInfo start = new("qemu-system-x86_64",
            ["-M", "pc,accel=tcg", "-m", "32", "-nodefaults", "-display", "none", "-S", "-serial", "null", "-qtest", "stdio", "-qtest-log", "none"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        using var qemu = new TestProcess(start);
        Task writing = Task.Run(() =>
        {
            foreach ((string command, _, _) in _program) qemu.StandardInput.WriteLine(command);
            qemu.StandardInput.Flush();
        });
        for (int n = 0; n < _program.Count; n++)
        {
            (string command, uint? expected, uint mask) = _program[n];
            string answer = qemu.StandardOutput.ReadLine() ?? throw new InvalidOperationException($"QEMU ended at \"{command}\"");
            Assert.StartsWith("OK", answer);
            if (expected is not { } value) continue;
            uint theirs = uint.Parse(answer.AsSpan("OK 0x".Length), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            if (((value ^ theirs) & mask) == 0) continue;
            string before = string.Join("; ", _program.Take(n).TakeLast(30).Select(p => p.Expected is { } v ? $"{p.Command} = {v:X}" : p.Command));
            Assert.Fail($"{command}: ours {value:X}, QEMU's {theirs:X}, after {n} accesses: {before}");
        }
        writing.Wait();
    }

    private static char Suffix(int size) => size switch { 1 => 'b', 2 => 'w', _ => 'l' };
}
