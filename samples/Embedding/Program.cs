// A virtual machine in a program of one's own: a command in the guest reads a device of this program's.
using Bunraku;
using Bunraku.Engines.X86;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Sessions;

int reads = 0;
await using Vm vm = new VmBuilder(KnownEngines.All)
{
    Command = ["sh", "-c", "dd if=/dev/port bs=1 skip=1568 count=1 2>/dev/null | od -An -tu1"], // port 620h
    Output = Console.OpenStandardOutput(),
    Parts = [new Thermometer(21)],
    OnExit = exit => reads += exit is { Reason: ExitReason.Io, IsWrite: false, Address: Thermometer.Port } ? 1 : 0,
}.Build();
VmResult result = await vm.RunAsync();
Console.WriteLine($"status {result.ExitStatus}, {reads} read, engine {vm.EngineName}");
return result.ExitStatus;

/// <summary>A device: one port that says how warm it is.</summary>
internal sealed class Thermometer(byte degrees) : IBoardPart, IPortDevice
{
    public const ushort Port = 0x620;

    public void AttachTo(IBoard board) => board.Machine.Ports.Add(Port, 1, this, new DeviceLock("thermometer"));

    public uint ReadPort(ushort offset, int size) => degrees;

    public void WritePort(ushort offset, int size, uint value)
    {
    }
}
