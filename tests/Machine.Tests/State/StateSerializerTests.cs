using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests.State;

/// <summary>A state that does not fit is refused with one line that says why.</summary>
public sealed class StateSerializerTests
{
    private static readonly Pit8254 s_shape = new(new TestLine(), new TestTime());

    private static string Refused(Func<string, string> change, string id = "pit", string format = "pit8254", int version = 1)
    {
        IStateful pit = new Pit8254(new TestLine(), new TestTime());
        SavedState saved = StateSerializer.Save(s_shape);
        byte[] data = Encoding.UTF8.GetBytes(change(Encoding.UTF8.GetString(saved.Data.Span)));
        string message = Assert.Throws<StateFormatException>(() => StateSerializer.Restore(pit, new SavedState(id, format, version, data))).Message;
        Assert.DoesNotContain('\n', message);
        return message;
    }

    [Fact]
    public void What_was_saved_is_restored_and_saved_again_the_same()
    {
        SavedState saved = StateSerializer.Save(s_shape);
        Assert.Equal(("pit", "pit8254", 1), (saved.Id, saved.Format, saved.Version));
        var other = new Pit8254(new TestLine(), new TestTime());
        StateSerializer.Restore(other, saved);
        Assert.True(saved.SameAs(StateSerializer.Save(other)));
    }

    [Fact]
    public void A_missing_member_is_not_filled_in() => Assert.Contains("Port61", Refused(s => s.Replace("\"Port61\":0,", "")));

    [Fact]
    public void An_unknown_member_is_not_skipped() => Assert.Contains("Colour", Refused(s => s.Replace("\"Port61\":0,", "\"Port61\":0,\"Colour\":1,")));

    [Theory]
    [InlineData("\"Port61\":0,\"Port61\":0", "Port61 is there twice")]
    [InlineData("\"Port61\":null", "Port61 is null")]
    [InlineData("\"Port61\":256", "Port61 is no Byte")]
    [InlineData("\"Port61\":-1", "Port61 is no Byte")]
    [InlineData("\"Port61\":1.5", "Port61 is no Byte")]
    [InlineData("\"Port61\":\"0\"", "Port61 is no Byte")]
    [InlineData("\"port61\":0", "it has a member 'port61', which is not known")]
    [InlineData("\"a\\nb\":0", "it has a member 'a\\nb', which is not known")]
    public void A_member_is_of_its_type_and_there_once(string written, string message) =>
        Assert.Equal("pit: its state is damaged: " + message, Refused(s => s.Replace("\"Port61\":0", written)));

    [Theory]
    [InlineData("null", "it is null")]
    [InlineData("{\"\\ud800aaaaaaaaaaaaaaaaa\":1}", "it has text that is none")]
    [InlineData("[]", "it is no PitState")]
    public void A_record_is_one(string written, string message) => Assert.Equal("pit: its state is damaged: " + message, Refused(_ => written));

    [Fact]
    public void Nothing_follows_a_record() => Assert.StartsWith("pit: its state is damaged:", Refused(s => s + "{}"));

    [Fact]
    public void Null_is_no_record_among_several() =>
        Assert.Equal("pit: its state is damaged: one of Channels is null",
            Refused(s => "{\"Channels\":[null]," + s[s.IndexOf("\"Edge\"", StringComparison.Ordinal)..]));

    [Fact]
    public void A_number_out_of_its_range_is_no_index() =>
        Assert.Equal("pit: state.Mode is 9, not 0 to 5", Refused(s => s.Replace("\"Mode\":0", "\"Mode\":9")));

    [Fact]
    public void An_array_of_another_length_is_refused() =>
        Assert.Equal("pit: state.Channels has 0 elements, not 3", Refused(s => "{\"Channels\":[]," + s[s.IndexOf("\"Edge\"", StringComparison.Ordinal)..]));

    [Fact]
    public void Damaged_bytes_are_refused() => Assert.StartsWith("pit: its state is damaged:", Refused(s => s[..^5]));

    [Fact]
    public void Another_version_is_refused()
    {
        Assert.Equal("pit: version 2 of the format pit8254 was written by a newer program; this one knows version 1", Refused(s => s, version: 2));
        Assert.Contains("older", Refused(s => s, version: 0));
    }

    [Fact]
    public void Another_device_s_state_is_refused()
    {
        Assert.Equal("pit: this is the state of a hpet, the machine has a pit8254 there", Refused(s => s, format: "hpet"));
        Assert.Equal("the state of rtc is not that of pit", Refused(s => s, id: "rtc"));
    }

    [Fact]
    public void A_device_that_cannot_be_saved_says_so_by_its_name()
    {
        using var rig = new BoardRig();
        rig.Machine.Add(new Stubborn());
        Assert.Equal("tape cannot be saved: nobody can read it backwards", Assert.Throws<CannotSaveException>(() => rig.Machine.Save()).Message);
    }

    [Fact]
    public void A_machine_of_another_shape_is_refused_before_anything_changes()
    {
        using var rig = new BoardRig();
        MachineState saved = rig.Machine.Save();
        using var other = new BoardRig();
        other.Machine.Add(new Stubborn());
        Assert.Equal("the saved machine has no tape", Assert.Throws<StateFormatException>(() => other.Machine.Restore(saved)).Message);
        using var small = new X86Machine(new Board.IdleEngine(), Board.IdleEngine.Model, 2 << 20);
        small.Pause();
        Assert.StartsWith("this machine has no ", Assert.Throws<StateFormatException>(() => small.Restore(saved)).Message);
        using var running = new X86Machine(new Board.IdleEngine(), Board.IdleEngine.Model, 2 << 20);
        Assert.Equal("the machine must be paused", Assert.Throws<InvalidOperationException>(() => running.Save()).Message);
    }

    private sealed class Stubborn : IDevice, IStateful<TapeState>
    {
        public string Id => "tape";

        public void Reset()
        {
        }

        TapeState IStateful<TapeState>.Save() => throw new CannotSaveException(Id, "nobody can read it backwards");

        void IStateful<TapeState>.Restore(TapeState state)
        {
        }
    }

    [StateRecord("tape", version: 1)]
    internal sealed record TapeState(int Position);
}
